"""Lines of text for a terminal, laid out here because some must span what columns cannot."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.text import Text

from bitbench.reports.section import Section

DEFAULT_WIDTH = 100
MIN_WIDTH = 60


@dataclass
class Lines:
    """Text under construction; every line is at most `width` wide."""

    width: int
    text: Text = field(default_factory=Text)

    def add(self, line: str, style: str = "") -> None:
        """One line that is known to fit."""
        self.text.append(line.rstrip() + "\n", style=style)

    def wrapped(self, line: str, first: str = "", style: str = "", indent: int | None = None) -> None:
        """A paragraph after `first`; its other lines are indented as far, or by `indent`."""
        rest = " " * (len(first) if indent is None else indent)
        for part in textwrap.wrap(
            line, self.width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
        ):
            self.add(part, style)

    def section(self, section: Section, mark: str, style: str = "") -> None:
        """Title, table, and each line under it after `mark`."""
        self.wrapped(section.title, "", "bold", indent=2)
        self.columns(section.head, section.rows, " ")
        for line in section.below:
            self.wrapped(line, mark, style)

    def columns(self, head: Sequence[str], rows: Sequence[Sequence[str]], indent: str) -> None:
        """A small table, its first column to the left. Columns from the right that do not fit are named instead."""
        widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
        kept = len(widths)
        while kept > 2 and len(indent) + sum(widths[:kept]) + 2 * (kept - 1) > self.width:
            kept -= 1
        for number, row in enumerate((head, *rows)):
            first = row[0][: max(1, self.width - len(indent) - sum(widths[1:kept]) - 2 * (kept - 1))]
            cells = [first.ljust(min(widths[0], self.width)), *map(str.rjust, row[1:kept], widths[1:kept])]
            self.add(indent + "  ".join(cells), "bold" if number == 0 else "")
        if kept < len(widths):
            self.wrapped(f"a wider terminal shows {', '.join(head[kept:])} too", indent, "dim")
