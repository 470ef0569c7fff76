"""`bitbench show`: the table from records, in any format."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bitbench.cli.console import wide_console
from bitbench.reports.formats import FORMATS, render
from bitbench.reports.quality import quality_markdown, quality_report
from bitbench.results import store
from bitbench.results.summary import summarize

QUALITY_FORMATS = ("table", "markdown")


def show(files: Sequence[Path], output_format: str, quality: bool = False) -> None:
    """Print records, or with `quality` those of quality in full.

    Raises ValueError for an unknown format or an unreadable file.
    """
    if quality:
        _show_quality(files, output_format)
        return
    if output_format not in FORMATS:
        raise ValueError(f"unknown format '{output_format}': choose from {', '.join(FORMATS)}")
    loaded = load(files)
    print_records(loaded, wide_console(), output_format)


def _show_quality(files: Sequence[Path], output_format: str) -> None:
    if output_format not in QUALITY_FORMATS:
        raise ValueError(f"quality has no format '{output_format}': choose from {', '.join(QUALITY_FORMATS)}")
    loaded = load(files)
    if not loaded.qualities:
        raise ValueError(f"no quality in {', '.join(str(f) for f in files)}: bitbench quality measures it")
    console = wide_console()
    told = (
        quality_report(loaded.qualities, console.width)
        if output_format == "table"
        else quality_markdown(loaded.qualities)
    )
    console.print(told, soft_wrap=True, highlight=False, markup=False)


def load(files: Sequence[Path]) -> store.Loaded:
    """The records of files, with a line on stderr for what was left out. Raises ValueError where there are none."""
    loaded = store.read(files)
    for problem in loaded.problems:
        print(f"bitbench: {problem}", file=sys.stderr)  # noqa: T201
    if not loaded.records and not loaded.qualities:
        raise ValueError(f"no records in {', '.join(str(f) for f in files)}")
    return loaded


def print_records(loaded: store.Loaded, console: Console, output_format: str = "table") -> None:
    """Print the rows."""
    rows = summarize(loaded.records, loaded.endings, loaded.qualities)
    console.print(render(rows, output_format, console.width), soft_wrap=True, highlight=False, markup=False)
