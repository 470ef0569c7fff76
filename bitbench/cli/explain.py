"""`bitbench explain`: why each row is as fast as it is, from records."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.text import Text

from bitbench.cli.console import wide_console
from bitbench.cli.show import load
from bitbench.explain.experiments import experiments
from bitbench.explain.rows import explain
from bitbench.reports.explanation import explanation
from bitbench.reports.explanation_markdown import explanation_json, explanation_markdown
from bitbench.reports.picture import picture
from bitbench.results.summary import CellSummary, summarize

FORMATS = ("text", "markdown", "json", "svg")


def explain_files(files: Sequence[Path], cells: Sequence[str], output_format: str) -> None:
    """Print the explanation. Raises ValueError for an unknown format or cell, or an unreadable file."""
    if output_format not in FORMATS:
        raise ValueError(f"unknown format '{output_format}': choose from {', '.join(FORMATS)}")
    loaded = load(files)
    rows = summarize(loaded.records, loaded.endings)
    chosen = _chosen(rows, cells)
    # All rows, chosen or not, are evidence for the chosen ones.
    explained = [e for e in explain(rows) if any(e.row is row for row in chosen)]
    tested = experiments(chosen)
    console = wide_console()
    tellers: dict[str, Callable[[], Text | str]] = {
        "text": lambda: explanation(explained, tested, console.width),
        "markdown": lambda: explanation_markdown(explained, tested),
        "json": lambda: explanation_json(explained, tested),
        "svg": lambda: picture(explained),
    }
    console.print(tellers[output_format](), soft_wrap=True, highlight=False, markup=False)


def _chosen(rows: Sequence[CellSummary], cells: Sequence[str]) -> list[CellSummary]:
    """The rows that bear every word of one of `cells`; all where none is given. Raises ValueError naming the cells."""
    for cell in cells:
        if not any(_is(row, cell) for row in rows):
            there = ", ".join(dict.fromkeys(f"'{name}'" for name in _names(rows)))
            raise ValueError(f"no cell '{cell}': choose from {there}")
    return [row for row in rows if not cells or any(_is(row, cell) for cell in cells)]


def _is(row: CellSummary, cell: str) -> bool:
    return bool(cell.split()) and set(cell.split()) <= {row.method, row.engine, row.model, row.workload, row.device}


def _names(rows: Sequence[CellSummary]) -> list[str]:
    """What tells each row from the others: its method, and what else differs among them."""
    parts = [(r.method, r.engine, r.model, r.workload, r.device) for r in rows]
    differs = [i == 0 or len(set(column)) > 1 for i, column in enumerate(zip(*parts, strict=True))]
    return [" ".join(text for text, told in zip(row, differs, strict=True) if told) for row in parts]
