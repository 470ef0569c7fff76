"""The console that commands print to."""

from rich.console import Console

NARROWEST = 110
"""Tables are made for this width; a file or pipe narrower than it is given it all the same."""


def wide_console() -> Console:
    """A console as wide as the terminal, elsewhere at least NARROWEST columns."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    return console
