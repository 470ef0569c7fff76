"""The command line: parse, call one function, print. No logic."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with the command's code: 0 done, 1 nothing measured, 2 bad input, 130 Ctrl-C."""
    from bitbench.cli.app import app

    app(args=list(arguments) if arguments is not None else sys.argv[1:], prog_name="bitbench")
