"""One line of advice per row, from what was measured and nothing else: never from a method's name.

Dominated means: another row is faster beyond the intervals and no larger. Quality is not part of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitbench.facts.status import Status
from bitbench.reports.groups import Group
from bitbench.results import units
from bitbench.results.baseline import Verdict, speedup_over, verdict
from bitbench.results.stats import Interval
from bitbench.results.summary import CellSummary
from bitbench.results.table_checks import all_far_below_ceiling

SAME_SIZE = 0.01
"""Weights within 1% count as equally large: kernels pad and pack one checkpoint a little differently."""

QUALITY_NOTE = "advice rests on the speed and memory above; quality was not measured here"
OTHER_ENGINE_NOTE = (
    "every row used less than a tenth of what the memory can deliver, so on an engine with less overhead this "
    "comparison may turn out otherwise"
)

FAILED_ADVICE: dict[Status, str] = {
    "unsupported": "cannot run here; bitbench methods and bitbench engines say what it needs",
    "out_of_memory": "does not fit here: use a smaller model, batch or context",
    "load_error": "not loaded: check what the reason names, or clear the checkpoint (bitbench cache) and make it again",
    "runtime_error": "its worker failed: run it alone and look at the reason; the other rows are not affected",
    "timeout": "it fell silent past its limit: run it alone; the other rows are not affected",
    "incorrect": "do not use it here: its output or its timing failed a check, so it has no speed",
    "interrupted": "not measured: the run was stopped; --resume goes on with it",
    "skipped": "not measured: the budget ended first; raise --budget and --resume",
}


@dataclass(frozen=True, slots=True)
class Advice:
    """The advice for one row, by its label."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class _Versus:
    """How another row compares with a given one: the other's speed over its, and the verdict."""

    other: CellSummary
    speedup: float
    interval: Interval | None
    verdict: Verdict

    def in_words(self) -> str:
        return units.ratio(self.speedup) + units.interval(self.interval)


def advise(group: Group) -> list[Advice]:
    """One line for each row, in the order of the table."""
    return [Advice(group.label(row), _advice(row, group)) for row in group.rows]


def remarks(group: Group) -> list[str]:
    """What holds for all of the advice."""
    lines = [OTHER_ENGINE_NOTE] if all_far_below_ceiling(group.rows) else []
    return [*lines, QUALITY_NOTE] if any(row.tpot_s for row in group.rows) else lines


def _advice(row: CellSummary, group: Group) -> str:
    if row.status != "ok":
        return FAILED_ADVICE[row.status] + _smallest_that_ran(row, group)
    if row.tpot_s is None:
        return "no decode speed to compare: one new token was asked for"
    others = [_versus(row, other) for other in group.rows if other is not row and other.process_tpots_s]
    if row.is_baseline:
        return _of_baseline(row, others, group)
    better = _best(v for v in others if v.verdict == "faster" and _no_larger(v.other, row))
    if better:
        return (
            f"take {group.label(better.other)} instead: {better.in_words()} as fast as this{_size(better.other, row)}"
        )
    if group.baseline is None:
        return "no 16-bit row was measured beside it, so nothing can be said against 16 bit"
    return _against_baseline(row, group.baseline, others, group)


def _of_baseline(row: CellSummary, others: Sequence[_Versus], group: Group) -> str:
    if not others:
        return "the 16-bit baseline; nothing else was measured beside it"
    better = _best(v for v in others if v.verdict == "faster" and _no_larger(v.other, row))
    if better:
        name = group.label(better.other)
        gain = f"{better.in_words()} as fast{_size(better.other, row)}"
        return f"the 16-bit baseline; {name} is {gain}: take that, if its quality will do"
    if any(v.verdict == "faster" for v in others):
        return "the 16-bit baseline; what is faster here needs more memory"
    fits = f"take it while {units.memory(row.weights_bytes)} of weights fit"
    if any(v.verdict == "ambiguous" for v in others):
        return f"the 16-bit baseline; no row is measurably faster: {fits}"
    return f"the 16-bit baseline and the fastest row: {fits}"


def _against_baseline(row: CellSummary, baseline: CellSummary, others: Sequence[_Versus], group: Group) -> str:
    speed = units.ratio(row.speedup) + units.interval(row.speedup_interval)
    found = verdict(row.speedup or 1.0, row.speedup_interval)
    smaller = _smaller(row, baseline)
    if found == "faster":
        if smaller:
            return f"take it, if its quality will do: {speed} the baseline's speed, {_saving(row, baseline)}"
        return f"{speed} the baseline's speed{_size(row, baseline)}: take it where speed is all that counts"
    if found == "slower":
        if smaller:
            return f"only when memory is short: {_saving(row, baseline)}, at {speed} the baseline's speed"
        return f"slower than the baseline ({speed}){_size(row, baseline)}: no reason to take it"
    equal = _best(v for v in others if v.verdict == "ambiguous" and _smaller(v.other, row))
    why = " and the noise does not tell them apart" if row.speedup_interval else "; one process each cannot tell more"
    text = f"AMBIGUOUS: {speed} the baseline's speed{why}"
    text += f"; {_saving(row, baseline)}" if smaller else ""
    return text + (f"; {group.label(equal.other)} is not measurably slower and smaller still" if equal else "")


def _versus(row: CellSummary, other: CellSummary) -> _Versus:
    speedup, interval = speedup_over(row.process_tpots_s, other.process_tpots_s)
    assert speedup is not None  # both have a TPOT
    return _Versus(other, speedup, interval, verdict(speedup, interval))


def _best(found: Iterable[_Versus]) -> _Versus | None:
    return max(found, key=lambda v: v.speedup, default=None)


def _growth(one: CellSummary, other: CellSummary) -> float | None:
    """How much larger the weights of `one` are than those of `other`, a fraction of the latter."""
    if one.weights_bytes is None or other.weights_bytes is None:
        return None
    return one.weights_bytes / other.weights_bytes - 1


def _no_larger(one: CellSummary, other: CellSummary) -> bool:
    change = _growth(one, other)
    return change is not None and change < SAME_SIZE


def _smaller(one: CellSummary, other: CellSummary) -> bool:
    change = _growth(one, other)
    return change is not None and change <= -SAME_SIZE


def _size(one: CellSummary, other: CellSummary) -> str:
    """How much smaller or larger `one` is than `other`, as an afterthought."""
    change = _growth(one, other)
    if change is None:
        return ""
    if abs(change) < SAME_SIZE:
        return " and as large"
    return f" and {units.percent(abs(change))} % {'smaller' if change < 0 else 'larger'}"


def _saving(row: CellSummary, baseline: CellSummary) -> str:
    """Needs a smaller row. Fewer weights do not help where the peak is as high: then it says so."""
    assert row.weights_bytes is not None and baseline.weights_bytes is not None
    saved = units.memory(baseline.weights_bytes - row.weights_bytes)
    text = f"saves {saved} of weights ({units.percent(row.memory_saved)} %)"
    if row.peak_memory_bytes and baseline.peak_memory_bytes and row.peak_memory_bytes >= baseline.peak_memory_bytes:
        peaks = f"{units.memory(row.peak_memory_bytes)} against {units.memory(baseline.peak_memory_bytes)}"
        text += f", but its peak is no lower ({peaks})"
    return text


def _smallest_that_ran(row: CellSummary, group: Group) -> str:
    ran = [r for r in group.rows if r.status == "ok" and r.peak_memory_bytes]
    if row.status != "out_of_memory" or not ran:
        return ""
    least = min(ran, key=lambda r: r.peak_memory_bytes or 0)
    return f"; the row with the lowest peak is {group.label(least)} ({units.memory(least.peak_memory_bytes)})"
