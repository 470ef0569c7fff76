"""One line of advice per row, from what was measured and nothing else: never from a method's name.

Dominated means: another row is faster beyond the intervals, or better in quality and not measurably slower, and it is
no larger and not worse in quality. Where quality was not measured it is not part of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitbench.facts.status import Status
from bitbench.reports.groups import Group
from bitbench.results import units
from bitbench.results.baseline import Verdict, speedup_over, verdict
from bitbench.results.pareto import SAME_SIZE, compare_quality
from bitbench.results.stats import Interval
from bitbench.results.summary import CellSummary
from bitbench.results.table_checks import all_far_below_ceiling

QUALITY_NOTE = "advice rests on the speed and memory above; quality was not measured here (bitbench quality does)"
NO_SPEED = "its speed was not measured: bitbench run does, and joins it with this quality"
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
    timed = [row for row in group.rows if row.tpot_s]
    lacking = [group.label(row) for row in timed if row.quality is None]
    if lacking and len(lacking) == len(timed):
        return [*lines, QUALITY_NOTE]
    return [*lines, f"quality was not measured for {', '.join(lacking)}"] if lacking else lines


def _advice(row: CellSummary, group: Group) -> str:
    if row.status != "ok":
        return FAILED_ADVICE[row.status] + _smallest_that_ran(row, group)
    if row.tpot_s is None:
        return "no decode speed to compare: one new token was asked for" if row.workload else NO_SPEED
    others = [_versus(row, other) for other in group.rows if other is not row and other.process_tpots_s]
    if row.is_baseline:
        return _of_baseline(row, others, group)
    if instead := _instead(row, others, group):
        return instead
    if group.baseline is None:
        return "no 16-bit row was measured beside it, so nothing can be said against 16 bit"
    return _against_baseline(row, group.baseline, others, group)


def _instead(row: CellSummary, others: Sequence[_Versus], group: Group) -> str:
    """What to take instead of a dominated row; empty for others."""
    if faster := _faster_for_free(row, others):
        quality = _better_quality(faster.other, row) or _near_lossless(faster.other)
        how = f"{faster.in_words()} as fast as this{_size(faster.other, row)}{quality}"
        return f"take {group.label(faster.other)} instead: {how}"
    if better := _better_for_free(row, others):
        how = f"not measurably slower{_size(better.other, row)}{_better_quality(better.other, row)}"
        return f"take {group.label(better.other)} instead: {how}"
    if smaller := _smaller_for_free(row, others):
        how = f"not measurably slower{_size(smaller.other, row)}{_quality(smaller.other)}"
        return f"take {group.label(smaller.other)} instead: {how}"
    return ""


def _of_baseline(row: CellSummary, others: Sequence[_Versus], group: Group) -> str:
    if not others:
        return "the 16-bit baseline; nothing else was measured beside it"
    if instead := _instead(row, [v for v in others if row.quality and v.other.quality], group):
        return f"the 16-bit baseline; {instead}"
    better = _best(v for v in others if v.verdict == "faster" and _no_larger(v.other, row))
    if better:
        name = group.label(better.other)
        gain = f"{better.in_words()} as fast{_size(better.other, row)}{_quality(better.other)}"
        return f"the 16-bit baseline; {name} is {gain}: take that, if {_its_quality(better.other)} will do"
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
            start = "take it" if _is_near_lossless(row) else f"take it, if {_its_quality(row)} will do"
            return f"{start}: {speed} the baseline's speed, {_saving(row, baseline)}{_quality(row)}"
        return f"{speed} the baseline's speed{_size(row, baseline)}: take it where speed is all that counts"
    if found == "slower":
        if smaller:
            at = f"at {speed} the baseline's speed{_quality(row)}"
            return f"only when memory is short: {_saving(row, baseline)}, {at}"
        return f"slower than the baseline ({speed}){_size(row, baseline)}: no reason to take it"
    equals = [v for v in others if v.verdict == "ambiguous" and compare_quality(v.other, row) != "worse"]
    equal = _best(v for v in equals if _smaller(v.other, row))
    why = " and the noise does not tell them apart" if row.speedup_interval else "; one process each cannot tell more"
    text = f"AMBIGUOUS: {speed} the baseline's speed{why}"
    text += (f"; {_saving(row, baseline)}" if smaller else "") + _quality(row)
    return text + (f"; {group.label(equal.other)} is not measurably slower and smaller still" if equal else "")


def _faster_for_free(row: CellSummary, others: Sequence[_Versus]) -> _Versus | None:
    """The fastest of those that are faster, no larger and not worse in quality as far as is known."""
    free = (v for v in others if v.verdict == "faster" and _no_larger(v.other, row))
    return _best(v for v in free if compare_quality(v.other, row) != "worse")


def _better_for_free(row: CellSummary, others: Sequence[_Versus]) -> _Versus | None:
    """The best in quality of those that are better in it, no larger and not measurably slower."""
    free = (v for v in others if v.verdict == "ambiguous" and _no_larger(v.other, row))
    better = [v for v in free if compare_quality(v.other, row) == "better"]
    return min(better, key=lambda v: v.other.quality.kl.mean if v.other.quality else 0.0, default=None)


def _smaller_for_free(row: CellSummary, others: Sequence[_Versus]) -> _Versus | None:
    """The smallest of those that are smaller, not measurably slower and, by what was measured, not worse in quality."""
    known = (v for v in others if row.quality and v.other.quality and v.verdict == "ambiguous")
    free = [v for v in known if _smaller(v.other, row) and compare_quality(v.other, row) != "worse"]
    return min(free, key=lambda v: v.other.weights_bytes or 0, default=None)


def _is_near_lossless(row: CellSummary) -> bool:
    return row.quality is not None and row.quality.near_lossless


def _its_quality(row: CellSummary) -> str:
    return "its quality" if row.quality is None else "that quality"


def _near_lossless(row: CellSummary) -> str:
    return _quality(row) if _is_near_lossless(row) else ""


def _quality(row: CellSummary) -> str:
    """What the row costs in quality, as an afterthought; empty where that is not known."""
    if row.quality is None:
        return ""
    if row.quality.near_lossless:
        return f"; near lossless (KL {units.kl(row.quality.kl.mean)})"
    kept = f"{units.share(row.quality.top1_agreement.value)} % of likeliest tokens kept"
    return f"; KL {units.kl(row.quality.kl.mean)}, {kept}, perplexity {row.quality.perplexity_ratio.value:.3f}x"


def _better_quality(one: CellSummary, other: CellSummary) -> str:
    """Where `one` is better in quality than `other`, by how much."""
    if one.quality is None or other.quality is None or compare_quality(one, other) != "better":
        return ""
    return f", and better in quality (KL {units.kl(one.quality.kl.mean)} against {units.kl(other.quality.kl.mean)})"


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
