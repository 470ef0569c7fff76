"""The Pareto set of a table over speed, memory and quality: the rows for which no other is better in one of them and
worse in none.
"""

from collections.abc import Sequence
from dataclasses import replace

from bitbench.results import quality_stats
from bitbench.results.baseline import speedup_over, verdict
from bitbench.results.cell_summary import CellSummary, TableKey
from bitbench.results.quality_stats import Verdict

SAME_SIZE = 0.01
"""Weights within 1% count as equally large: kernels pad and pack one checkpoint a little differently."""

_SAME: Verdict = "cannot be told apart"
_SPEEDS: dict[str, Verdict] = {"faster": "better", "slower": "worse", "ambiguous": _SAME}


def compare_speed(first: CellSummary, second: CellSummary) -> Verdict:
    """The first's decode speed, by the intervals between processes (results/baseline.py)."""
    ratio, interval = speedup_over(second.process_tpots_s, first.process_tpots_s)
    return _SAME if ratio is None else _SPEEDS[verdict(ratio, interval)]


def compare_size(first: CellSummary, second: CellSummary) -> Verdict:
    """The first's weights: better is smaller."""
    if not first.weights_bytes or not second.weights_bytes:
        return _SAME
    change = first.weights_bytes / second.weights_bytes - 1
    return _SAME if abs(change) < SAME_SIZE else "better" if change < 0 else "worse"


def compare_quality(first: CellSummary, second: CellSummary) -> Verdict:
    """The first's mean KL on the same positions; what cannot be compared cannot be told apart."""
    if first.quality is None or second.quality is None:
        return _SAME
    a, b = first.quality.main, second.quality.main
    return quality_stats.compare_quality(a, b) if quality_stats.same_positions(a, b) else _SAME


def with_pareto(rows: Sequence[CellSummary]) -> list[CellSummary]:
    """The rows with `pareto` filled in where a table has two rows or more with speed, weights and quality on the same
    positions; None elsewhere.
    """
    tables: dict[TableKey, list[CellSummary]] = {}
    for row in rows:
        if row.tpot_s is not None and row.weights_bytes and row.quality is not None:
            tables.setdefault(row.table_key, []).append(row)
    marks: dict[int, bool] = {}
    for table in tables.values():
        able = [row for row in table if _comparable(row, table[0])]
        if len(able) > 1:
            found = quality_stats.pareto(able, (compare_size, compare_speed, compare_quality))
            marks |= {id(row): mark for row, mark in zip(able, found, strict=True)}
    return [replace(row, pareto=marks[id(row)]) if id(row) in marks else row for row in rows]


def _comparable(row: CellSummary, other: CellSummary) -> bool:
    assert row.quality is not None and other.quality is not None
    return quality_stats.same_positions(row.quality.main, other.quality.main)
