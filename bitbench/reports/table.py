"""The table for people, at the width of the terminal. Lines are laid out here: a failed row spans all columns."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from bitbench.reports import below
from bitbench.reports.columns import Column, columns
from bitbench.reports.engines import engines_beside
from bitbench.reports.groups import Group, groups, headings
from bitbench.reports.lines import DEFAULT_WIDTH, MIN_WIDTH, Lines
from bitbench.results.checks import file_warnings
from bitbench.results.metrics import METRICS
from bitbench.results.summary import CellSummary


@dataclass(frozen=True)
class _Layout:
    """The columns that fit, their widths, the gap between them, and whether kernels stand beside the methods."""

    shown: tuple[Column, ...]
    names: tuple[str, ...]
    gap: int
    inline: bool
    rows: tuple[CellSummary, ...]

    @property
    def name_width(self) -> int:
        return max(len(name) for name in (*self.names, "method"))

    def width_of(self, column: Column) -> int:
        cells = [column.cell(row) for row in self.rows if row.status == "ok"]
        return max(len(text) for text in (*column.head, *cells))

    @property
    def total(self) -> int:
        return 1 + self.name_width + sum(self.gap + self.width_of(column) for column in self.shown)

    def line(self, name: str, cells: Sequence[str]) -> str:
        padded = (text.rjust(self.width_of(column)) for text, column in zip(cells, self.shown, strict=True))
        return " " + (" " * self.gap).join([name.ljust(self.name_width), *padded])


def table(summaries: Sequence[CellSummary], width: int = DEFAULT_WIDTH) -> Text:
    """A table for each group, what is to be known about it under it, and the definitions once at the end."""
    lines = Lines(max(width, MIN_WIDTH))
    tables = groups(summaries)
    if not tables:
        lines.add("no records")
    shown: set[str] = set()
    for group in tables:
        shown |= _group(lines, group)
    for section in engines_beside(summaries):
        lines.section(section, " ", "dim")
        lines.add("")
    for warned in file_warnings(summaries):
        lines.wrapped(below.warning_line(warned, len(summaries)), " ! ", "yellow")
    for title, definition in below.definitions(shown):
        lines.wrapped(definition, f" {title}: ", "dim", indent=3)
    lines.text.rstrip()
    return lines.text


def _group(lines: Lines, group: Group) -> set[str]:
    for number, heading in enumerate(headings(group)):
        lines.wrapped(heading, "", "bold" if number == 0 else "", indent=2)
    layout = _fit(group, lines.width)
    if layout.shown:
        lines.add(layout.line("", [column.head[0] for column in layout.shown]), "bold")
        lines.add(layout.line("method", [column.head[1] for column in layout.shown]), "bold")
    for row, name in zip(group.rows, layout.names, strict=True):
        _row(lines, layout, row, name)
    _beside(lines, group, layout)
    _below(lines, group)
    return {column.key for column in layout.shown}


def _row(lines: Lines, layout: _Layout, row: CellSummary, name: str) -> None:
    if row.status == "ok":
        lines.add(layout.line(name, [column.cell(row) for column in layout.shown]))
        return
    # One line for the reader, whatever a library's message looks like.
    said = " ".join(f"{row.status}: {row.reason}".split()) if row.reason else row.status
    lines.wrapped(said, " " + name.ljust(layout.name_width + layout.gap), "red")


def _beside(lines: Lines, group: Group, layout: _Layout) -> None:
    """What has no column: the kernels where they are long, the spreads, and the columns that do not fit."""
    kernels = [f"{n} {r.kernel}" for r, n in zip(group.rows, group.labels, strict=True) if r.kernel]
    if kernels and not layout.inline:
        lines.wrapped(" · ".join(kernels), " kernels: ", "dim", indent=3)
    if spreads := below.spreads(group):
        lines.wrapped(" · ".join(spreads), f" {below.SPREADS_TITLE}: ", "dim", indent=3)
    if verdicts := below.verdicts(group):
        lines.wrapped(" · ".join(verdicts), f" {below.VERDICTS_TITLE}: ", indent=3)
    if texts := below.quality_texts(group):
        lines.wrapped(" · ".join(texts), f" {below.QUALITY_TITLE}: ", "dim", indent=3)
    kept = {column.key for column in layout.shown}
    missing = [METRICS[column.key].title for column in columns(group) if column.key not in kept]
    if missing:
        lines.wrapped(f"a wider terminal shows {', '.join(missing)} too", " ", "dim")


def _below(lines: Lines, group: Group) -> None:
    for warning in below.warnings(group):
        lines.wrapped(warning, " ! ", "yellow")
    for note in below.notes(group):
        lines.wrapped(note, " * ")
    advised, remarks = below.advice(group)
    widest = min(max(len(a.label) for a in advised), lines.width // 3)
    lines.add(" advice", "bold")
    for advice in advised:
        lines.wrapped(advice.text, f"   {advice.label.ljust(widest)}  ")
    for remark in remarks:
        lines.wrapped(remark, "   ", "dim")
    lines.add("")


def _fit(group: Group, width: int) -> _Layout:
    """With kernels and air if that fits; else the kernels go below, then the gaps shrink, then the least dear
    columns go.
    """
    able = columns(group)
    plain = group.labels
    full = tuple(f"{n} ({r.kernel})" if r.kernel else n for r, n in zip(group.rows, group.labels, strict=True))
    for names, gap in ((full, 2), (full, 1), (plain, 2), (plain, 1)):
        layout = _Layout(tuple(able), names, gap, names is full, group.rows)
        if layout.total <= width:
            return layout
    while able:
        able.remove(min(able, key=lambda column: column.worth))
        layout = _Layout(tuple(able), plain, 1, False, group.rows)
        if layout.total <= width:
            break
    return layout
