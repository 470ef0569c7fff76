"""The failures a layer may report upwards. Each message is one line for the user."""


class LoadError(Exception):
    """A checkpoint could not be found, read, made or loaded."""


class OutOfMemory(Exception):
    """Device or host memory was not enough; the message says which and, where known, how much was asked for."""


class Unsupported(Exception):
    """This combination cannot run here; the message says why and what to install."""
