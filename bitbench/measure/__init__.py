"""How numbers are taken. Knows only `engines.base`, no engine."""
