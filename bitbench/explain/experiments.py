"""What the given rows test about causes: rows that differ in one thing only, side by side, and the finding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bitbench.explain.cause import find
from bitbench.facts.workloads import Workload, parse_workload
from bitbench.results import units
from bitbench.results.baseline import speedup_over, verdict
from bitbench.results.summary import CellSummary

OUTLIERS, NO_OUTLIERS = "bnb-int8", "bnb-int8-t0"
"""The one experiment that goes by names: LLM.int8() with the outlier question (threshold 6) and without (0)."""

PROPORTIONAL = 0.5
"""From half of a proportional growth on, a step is said to grow with its load."""
MOSTLY_IDLE = 0.5
"""Of a step: more idle time than this share says that it is not memory that is waited for."""
LITTLE_IDLE = 0.1
"""Of a step: less idle time than this share explains nothing that a batch gains."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Rows that differ in `varied` only. `about` says what is equal, `head` and `lines` are a small table."""

    varied: str
    about: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    finding: str


@dataclass(frozen=True)
class _Axis:
    """One thing to vary: what is equal for the rows compared (None: the row has no part in it), by what they are
    ordered, how that is written, and what the first and last say.
    """

    varied: str
    equal: Callable[[CellSummary], tuple[object, ...] | None]
    value: Callable[[CellSummary], float]
    label: Callable[[CellSummary], str]
    finding: Callable[[CellSummary, CellSummary], str]


def experiments(rows: Sequence[CellSummary]) -> list[Experiment]:
    """Every comparison that these rows allow, in the order of their first row."""
    able = [row for row in rows if row.tpot_s]
    return [*_outlier_waits(able), *(found for axis in _AXES for found in _along(axis, able))]


def _along(axis: _Axis, rows: Sequence[CellSummary]) -> list[Experiment]:
    groups: dict[tuple[object, ...], dict[float, CellSummary]] = {}
    for row in rows:
        key = axis.equal(row)
        if key is not None:
            groups.setdefault(key, {}).setdefault(axis.value(row), row)
    return [_compared(axis, [found[v] for v in sorted(found)]) for found in groups.values() if len(found) > 1]


def _compared(axis: _Axis, rows: Sequence[CellSummary]) -> Experiment:
    head = (axis.varied, *_HEAD)
    lines = [(axis.label(row), *_cells(row)) for row in rows]
    about = f"{rows[0].method} on {rows[0].engine}"
    return Experiment(axis.varied, about, *_known(head, lines), axis.finding(rows[0], rows[-1]))


_HEAD = ("TPOT ms", "tok/s", "of ceiling, %", "GPU busy, %", "GPU idle ms", "kernels", "waits", "verdict")


def _known(
    head: tuple[str, ...], lines: Sequence[tuple[str, ...]]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Without the columns that no row knows."""
    kept = [i for i in range(len(head)) if any(line[i] != units.UNKNOWN for line in lines)]
    return tuple(head[i] for i in kept), tuple(tuple(line[i] for i in kept) for line in lines)


def _cells(row: CellSummary) -> tuple[str, ...]:
    found = find(row, "decode")
    idle = _idle_s(row)
    return (
        units.milliseconds(row.tpot_s),
        units.significant(row.decode_tokens_per_s),
        units.percent(row.mbu),
        units.percent(row.gpu_busy),
        units.milliseconds(idle),
        _count(row.num_kernels_per_step),
        _count(row.num_syncs_per_step),
        found.kind if found else units.UNKNOWN,
    )


def _idle_s(row: CellSummary) -> float | None:
    return max(0.0, row.tpot_s - row.gpu_busy_s) if row.tpot_s and row.gpu_busy_s is not None else None


def _where(row: CellSummary) -> tuple[object, ...]:
    return (row.engine, row.method, row.device, row.environment.pool_key)


def _workload(row: CellSummary) -> Workload | None:
    try:
        return parse_workload(row.workload)
    except ValueError:
        return None


def _but_batch(row: CellSummary) -> tuple[object, ...] | None:
    workload = _workload(row)
    return (*_where(row), row.model, row.checkpoint_hash, replace(workload, batch_size=1)) if workload else None


def _but_context(row: CellSummary) -> tuple[object, ...] | None:
    workload = _workload(row)
    if workload is None or workload.prompt_len is None:
        return None
    equal = replace(workload, prompt_len=1, depth=0, num_prompts=1)
    return (*_where(row), row.model, row.checkpoint_hash, equal)


def _but_model(row: CellSummary) -> tuple[object, ...] | None:
    return (*_where(row), row.workload, row.batch_size) if row.weights_bytes else None


def _context(row: CellSummary) -> float:
    workload = _workload(row)
    return workload.depth + (workload.prompt_len or 0) if workload else 0


def _of_batch(first: CellSummary, last: CellSummary) -> str:
    """A step is a fixed part and a part for each sequence; their split from the first and the last row."""
    growth, load = _growth(first, last), last.batch_size / first.batch_size
    longer = f"{units.ratio(growth)} as long as" if growth > 1 else f"no longer ({units.ratio(growth)}) than"
    told = (
        f"a step for {last.batch_size} sequences takes {longer} one for {first.batch_size}, so "
        f"a token costs {units.significant(growth / load, 2)} of what it did"
    )
    if growth - 1 >= PROPORTIONAL * (load - 1):
        return f"{told}: the step grows with the batch, its fixed part is small"
    idle = _idle_s(first), _idle_s(last)
    if idle[0] is None or idle[1] is None:
        return f"{told}: launches and the reading of weights are shared by the batch"
    if idle[0] < LITTLE_IDLE * (first.tpot_s or 0):
        return f"{told}: the GPU was hardly idle before, so it is the reading of weights that is shared"
    per_token = units.duration(idle[0] / first.batch_size), units.duration(idle[1] / last.batch_size)
    return f"{told}; the GPU's idle time per token goes from {per_token[0]} to {per_token[1]}: launches are shared"


def _of_size(first: CellSummary, last: CellSummary) -> str:
    weights = (last.weights_bytes or 0) / (first.weights_bytes or 1)
    told = f"{units.ratio(weights)} the weights take {units.ratio(_growth(first, last))} the time"
    if first.gpu_busy is None or last.gpu_busy is None:
        return told
    idle = [units.percent(max(0.0, 1 - row.gpu_busy)) for row in (first, last) if row.gpu_busy is not None]
    fell = last.gpu_busy > first.gpu_busy
    why = "the host's work is much the same for each model, so it weighs less" if fell else "the host weighs no less"
    return f"{told}, and the GPU's idle share goes from {idle[0]} to {idle[1]} %: {why}"


def _of_context(first: CellSummary, last: CellSummary) -> str:
    tokens = f"{_context(first):,.0f} to {_context(last):,.0f} tokens of context"
    growth = _growth(first, last)
    told = f"from {tokens} a step takes {units.ratio(growth)} as long"
    speedup, interval = speedup_over(first.process_tpots_s, last.process_tpots_s)
    if speedup is not None and verdict(speedup, interval) == "ambiguous":
        told += ", which these processes cannot tell from noise"
        idle = None if last.gpu_busy is None else 1 - last.gpu_busy
        if idle is None or idle < MOSTLY_IDLE:
            return told
        return f"{told}; the GPU idles for {units.percent(idle)} % of the longest: it does not wait for the KV cache"
    read = (last.bytes_per_step or 0) / first.bytes_per_step if first.bytes_per_step else None
    return f"{told}, for {units.ratio(read)} the bytes" if read else told


def _growth(first: CellSummary, last: CellSummary) -> float:
    assert first.tpot_s and last.tpot_s
    return last.tpot_s / first.tpot_s


_AXES = (
    _Axis("batch", _but_batch, lambda row: row.batch_size, lambda row: str(row.batch_size), _of_batch),
    _Axis("model", _but_model, lambda row: row.weights_bytes or 0, lambda row: row.model, _of_size),
    _Axis("context", _but_context, _context, lambda row: f"{_context(row):,.0f}", _of_context),
)


def _outlier_waits(rows: Sequence[CellSummary]) -> list[Experiment]:
    found = []
    for row in rows:
        twin = next((r for r in rows if r.table_key == row.table_key and r.method == NO_OUTLIERS), None)
        if row.method == OUTLIERS and twin:
            found.append(_outlier_wait(row, twin))
    return found


def _outlier_wait(row: CellSummary, twin: CellSummary) -> Experiment:
    head = ("threshold", *_HEAD)
    lines = [("6", *_cells(row)), ("0", *_cells(twin))]
    about = f"LLM.int8() on {row.engine}, {row.model}"
    return Experiment("outlier threshold", about, *_known(head, lines), _of_waits(row, twin))


def _of_waits(row: CellSummary, twin: CellSummary) -> str:
    assert row.tpot_s and twin.tpot_s
    extra = row.tpot_s - twin.tpot_s
    speedup, interval = speedup_over(row.process_tpots_s, twin.process_tpots_s)
    if speedup is None or verdict(speedup, interval) == "ambiguous":
        return "the two differ by no more than the noise: here the outlier question costs nothing that can be shown"
    told = f"asking for outliers costs {units.duration(extra)} a step, {units.percent(extra / row.tpot_s)} % of it"
    if row.num_syncs_per_step is None or twin.num_syncs_per_step is None:
        return f"{told}; how many waits that is takes a profile (bitbench run --profile)"
    waits = row.num_syncs_per_step - twin.num_syncs_per_step
    if waits < 1:
        return f"{told}, though it waits no more often"
    return (
        f"{told}: {units.duration(extra / waits)} for each of {units.count(waits)} waits, kernels they bring included"
    )


def _count(value: float | None) -> str:
    return units.UNKNOWN if value is None else units.count(value)
