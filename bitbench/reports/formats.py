"""The output formats of `bitbench show`. To add one, write a function in reports/ and name it here."""

from collections.abc import Callable, Sequence

from rich.text import Text

from bitbench.reports.markdown import markdown
from bitbench.reports.rows import as_csv, as_json
from bitbench.reports.table import table
from bitbench.results.summary import CellSummary

Format = Callable[[Sequence[CellSummary], int], str | Text]

FORMATS: dict[str, Format] = {
    "table": table,
    "markdown": lambda summaries, width: markdown(summaries),
    "csv": lambda summaries, width: as_csv(summaries),
    "json": lambda summaries, width: as_json(summaries),
}


def render(summaries: Sequence[CellSummary], output_format: str, width: int) -> str | Text:
    """The rows in `output_format`, at most `width` characters wide where that means anything.

    Raises ValueError naming the formats.
    """
    if output_format not in FORMATS:
        raise ValueError(f"unknown format '{output_format}': choose from {', '.join(FORMATS)}")
    return FORMATS[output_format](summaries, width)
