"""Adapters that drive a model token by token, behind one protocol. Engines do not know each other."""
