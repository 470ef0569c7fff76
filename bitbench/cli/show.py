"""`bitbench show`: the table from records, in any format."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bitbench.cli.console import wide_console
from bitbench.reports.formats import FORMATS, render
from bitbench.results import store
from bitbench.results.record import Ending, Record
from bitbench.results.summary import summarize


def show(files: Sequence[Path], output_format: str) -> None:
    """Print records. Raises ValueError for an unknown format or an unreadable file."""
    if output_format not in FORMATS:
        raise ValueError(f"unknown format '{output_format}': choose from {', '.join(FORMATS)}")
    loaded = load(files)
    print_records(loaded.records, loaded.endings, wide_console(), output_format)


def load(files: Sequence[Path]) -> store.Loaded:
    """The records of files, with a line on stderr for what was left out. Raises ValueError where there are none."""
    loaded = store.read(files)
    for problem in loaded.problems:
        print(f"bitbench: {problem}", file=sys.stderr)  # noqa: T201
    if not loaded.records:
        raise ValueError(f"no records in {', '.join(str(f) for f in files)}")
    return loaded


def print_records(
    records: Sequence[Record], endings: Sequence[Ending], console: Console, output_format: str = "table"
) -> None:
    """Print the rows."""
    console.print(
        render(summarize(records, endings), output_format, console.width), soft_wrap=True, highlight=False, markup=False
    )
