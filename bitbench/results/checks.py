"""Every methodological warning that applies to given rows, each with its advice."""

from collections.abc import Sequence
from dataclasses import dataclass

from bitbench.results.row_checks import ROW_CHECKS
from bitbench.results.summary import CellSummary
from bitbench.results.table_checks import FILE_CHECKS, TABLE_CHECKS, TableCheck


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning that applies. `details` holds (row label, detail); the label is empty where it is about all rows."""

    name: str
    title: str
    advice: str
    details: tuple[tuple[str, str], ...]


def table_warnings(rows: Sequence[CellSummary]) -> list[Warned]:
    """The warnings about the rows of one table, in the order of the lists above."""
    found = []
    for check in ROW_CHECKS:
        details = tuple((s.method, detail) for s in rows if (detail := check.applies(s)) is not None)
        if details:
            found.append(Warned(check.name, check.title, check.advice, details))
    return found + _warned(TABLE_CHECKS, rows)


def file_warnings(rows: Sequence[CellSummary]) -> list[Warned]:
    """The warnings about all rows that were read."""
    return _warned(FILE_CHECKS, rows)


def _warned(checks: Sequence[TableCheck], rows: Sequence[CellSummary]) -> list[Warned]:
    found = [(check, check.applies(rows)) for check in checks]
    return [Warned(c.name, c.title, c.advice, (("", d),)) for c, d in found if d is not None]
