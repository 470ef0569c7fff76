"""A row of the table: what the records of one cell, on one environment and checkpoint, say together.

Definitions of the figures are in `metrics.py`. Units are in the names; fractions 0-1; unknown is None.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from bitbench.facts.profile import Stage, StageProfile
from bitbench.facts.status import Flag, Status
from bitbench.results import ceiling, stats
from bitbench.results.baseline import speedup_over
from bitbench.results.environment import Environment
from bitbench.results.pool import Pool, Process, pools
from bitbench.results.record import Ending, Record
from bitbench.results.stats import Interval

_T = TypeVar("_T")
TableKey = tuple[str, str, str, str, int, str]
"""Model, engine, workload, device, batch size, environment."""

_CACHE_FLAG: dict[str, tuple[Flag, ...]] = {"no": (), "cache": ("beats_cache_ceiling",)}


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """One row. A row whose status is not `ok` carries no speed.

    `process_tpots_s` are the per-process medians, from which comparisons are made. `num_failed` counts processes of
    the cell that failed while others went well, `failure` says how the first did.
    """

    model: str
    model_title: str
    method: str
    scheme: str
    weight_bits: float
    dtype: str
    engine: str
    kernel: str
    workload: str
    batch_size: int
    output_len: int
    device: str
    environment: Environment
    checkpoint_hash: str
    run_ids: tuple[str, ...]
    status: Status
    reason: str = ""
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()
    num_failed: int = 0
    failure: str = ""
    ending: Ending | None = None
    processes: tuple[Process, ...] = field(default=(), repr=False)

    num_processes: int = 0
    num_samples: int = 0
    num_throttled: int = 0
    prompt_len: float | None = None
    process_tpots_s: tuple[float, ...] = ()
    tpot_s: float | None = None
    ttft_s: float | None = None
    decode_tokens_per_s: float | None = None
    decode_tokens_per_s_interval: Interval | None = None
    spread_within: float | None = None
    spread_between: float | None = None
    generate_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    itl_clock: Literal["host", "device"] = "host"
    energy_j_per_token: float | None = None

    weights_bytes: int | None = None
    allocated_after_load_bytes: int | None = None
    load_peak_bytes: int | None = None
    peak_memory_bytes: int | None = None
    kv_cache_bytes: int | None = None

    bytes_per_step: int | None = None
    bandwidth_bytes_per_s: float | None = None
    ceiling_tokens_per_s: float | None = None
    mbu: float | None = None

    profiles: tuple[StageProfile, ...] = field(default=(), repr=False)
    node_gap_s: float | None = None
    matmul_flops_per_s: float | None = None

    baseline: str | None = None
    is_baseline: bool = False
    speedup: float | None = None
    speedup_interval: Interval | None = None
    memory_saved: float | None = None

    @property
    def is_16bit(self) -> bool:
        """Nothing is quantized: this row may be the baseline."""
        return self.weight_bits == 16

    @property
    def device_name(self) -> str:
        """The name of the device it ran on."""
        return self.environment.cpu if self.device == "cpu" else self.environment.device_name

    def profile(self, stage: Stage) -> StageProfile | None:
        """The pass that was profiled, of the first process that could be; one with source `none` where none could."""
        found = [p for p in self.profiles if p.stage == stage]
        return next((p for p in found if p.source != "none"), found[0] if found else None)

    def _seen(self, figure: str) -> float | None:
        """A figure of the decode step's profile; None where that is not of a GPU."""
        found = self.profile("decode")
        return getattr(found, figure) if found and found.source == "device" else None

    @property
    def gpu_busy_s(self) -> float | None:
        """Union of kernel intervals in a decode step, profiled."""
        return self._seen("busy_s")

    @property
    def gpu_busy(self) -> float | None:
        """gpu_busy_s / TPOT, the latter measured without a profiler, which slows the host."""
        return self.gpu_busy_s / self.tpot_s if self.gpu_busy_s is not None and self.tpot_s else None

    @property
    def num_kernels_per_step(self) -> float | None:
        """Kernels launched in a decode step."""
        return self._seen("num_kernels")

    @property
    def num_syncs_per_step(self) -> float | None:
        """Times in a decode step that the host waits for the GPU."""
        return self._seen("num_syncs")

    @property
    def table_key(self) -> TableKey:
        """Rows with equal keys stand in one table and may be compared."""
        return (self.model, self.engine, self.workload, self.device, self.batch_size, self.environment.pool_key)


def summarize(records: Sequence[Record], endings: Sequence[Ending] = ()) -> list[CellSummary]:
    """One row for each cell, environment and checkpoint, in the order of first appearance."""
    rows = [_summary(pool) for pool in pools(records, endings)]
    tables: dict[TableKey, list[CellSummary]] = {}
    for row in rows:
        tables.setdefault(row.table_key, []).append(row)
    baselines = {key: _fastest_16bit(table) for key, table in tables.items()}
    return [_against(row, baselines[row.table_key]) for row in rows]


def _summary(pool: Pool) -> CellSummary:
    row = _with_bytes(_identity(pool), pool.ok)
    processes = pool.processes()
    if row.status != "ok" or not processes:
        return row
    fast = _with_speed(row, processes, pool.num_throttled)
    return _with_ceiling(fast, row)


def _identity(pool: Pool) -> CellSummary:
    """What the row is, and how it ended. One `incorrect` process makes the cell incorrect: its numbers cannot be
    trusted.
    """
    failed, ok = pool.failed(), pool.ok
    wrong = [r for r in failed if r.status == "incorrect"]
    worst = wrong[0] if wrong else failed[0] if failed and not ok else None
    told = ok[0] if ok else pool.records[0]
    bad = [f"{r.status}: {r.reason}" if r.reason else r.status for r in failed]
    return CellSummary(
        model=pool.cell.model,
        model_title=told.model_title or pool.cell.model,
        method=pool.cell.method_label,
        scheme=told.scheme,
        weight_bits=told.weight_bits,
        dtype=told.dtype,
        engine=pool.cell.engine,
        kernel=" / ".join(_distinct(r.kernel.name for r in ok if r.kernel)),
        workload=pool.cell.workload,
        batch_size=told.batch_size,
        output_len=told.output_len,
        device=pool.cell.device,
        environment=pool.environment,
        checkpoint_hash=pool.checkpoint_hash,
        run_ids=_distinct(r.run_id for r in pool.records),
        status=worst.status if worst else "ok",
        reason=worst.reason if worst else "" if ok else "no process left a record",
        flags=_distinct(flag for r in ok for flag in r.flags),
        notes=_distinct(note for r in pool.records for note in r.notes),
        num_failed=len(failed) if ok and not wrong else 0,
        failure=bad[0] if bad and ok and not wrong else "",
        ending=pool.ending,
        itl_clock=told.itl_clock,
    )


def _with_bytes(row: CellSummary, ok: Sequence[Record]) -> CellSummary:
    """Memory: medians over processes, of peaks the greatest (that much must be there)."""
    memories = [r.memory for r in ok if r.memory]
    bandwidths = [r.bandwidth.bytes_per_s for r in ok if r.bandwidth]
    return replace(
        row,
        weights_bytes=_whole(m.weights_bytes for m in memories),
        allocated_after_load_bytes=_whole(m.allocated_after_load_bytes for m in memories),
        load_peak_bytes=_greatest(m.load_peak_bytes for m in memories),
        peak_memory_bytes=_greatest(m.peak_memory_bytes for m in memories),
        kv_cache_bytes=_whole(m.kv_cache_bytes for m in memories),
        bytes_per_step=_whole(r.bytes_per_step for r in ok),
        bandwidth_bytes_per_s=stats.median_of_known(bandwidths),
        profiles=tuple(profile for r in ok for profile in r.profiles),
        node_gap_s=stats.median_of_known(r.node_gap_s for r in ok),
        matmul_flops_per_s=stats.median_of_known(r.matmul_flops_per_s for r in ok),
    )


def _with_speed(row: CellSummary, processes: tuple[Process, ...], num_throttled: int) -> CellSummary:
    samples = [s for p in processes for s in p.samples]
    timed = [p.tpots for p in processes if p.tpots]
    medians = tuple(statistics.median(t) for t in timed)
    tpot = statistics.median(medians) if medians else None
    ttft = statistics.median(statistics.median(s.ttft_s for s in p.samples) for p in processes)
    between = stats.interval(medians)
    prompt_len = statistics.median(s.prompt_len for s in samples)
    computed: list[Flag] = ["throttled"] if num_throttled else []
    if any(stats.num_outliers(t) for t in timed):
        computed.append("outlier")
    return replace(
        row,
        processes=processes,
        flags=_distinct([*row.flags, *computed]),
        num_processes=len(processes),
        num_samples=len(samples),
        num_throttled=num_throttled,
        prompt_len=prompt_len,
        process_tpots_s=medians,
        tpot_s=tpot,
        ttft_s=ttft,
        decode_tokens_per_s=row.batch_size / tpot if tpot else None,
        decode_tokens_per_s_interval=between.inverse(row.batch_size) if between else None,
        spread_within=stats.spread_within(timed),
        spread_between=stats.spread_between(medians),
        generate_tokens_per_s=sum(s.batch_size * s.output_len for s in samples) / sum(s.total_s for s in samples),
        prefill_tokens_per_s=row.batch_size * prompt_len / ttft,
        energy_j_per_token=_energy_per_token(p.record for p in processes),
    )


def _energy_per_token(records: Iterable[Record]) -> float | None:
    """Sum over sum, so that a longer window weighs more: the counter's steps are coarse."""
    known = [(r.energy_j, r.energy_tokens) for r in records if r.energy_j is not None and r.energy_tokens]
    return sum(e for e, _ in known) / sum(t for _, t in known) if known else None


def _with_ceiling(row: CellSummary, unmeasured: CellSummary) -> CellSummary:
    """Adds ceiling and MBU. A row that beats the ceiling, with no cache to explain it, becomes `incorrect`."""
    step, bandwidth = row.bytes_per_step, row.bandwidth_bytes_per_s
    if not step or not bandwidth:
        return row
    most = ceiling.ceiling_tokens_per_s(row.batch_size, bandwidth, step)
    if row.tpot_s is None:
        return replace(row, ceiling_tokens_per_s=most)
    used = ceiling.mbu(step, row.tpot_s, bandwidth)
    beaten = ceiling.beats_ceiling(step, row.tpot_s, bandwidth, row.environment.last_level_cache_bytes)
    if beaten == "error":
        reason = (
            f"{row.decode_tokens_per_s:.1f} tok/s is more than the {most:.1f} tok/s that reading the weights allows: "
            "the work was not done, or not timed"
        )
        return replace(unmeasured, status="incorrect", reason=reason, ceiling_tokens_per_s=most)
    flags = _distinct([*row.flags, *_CACHE_FLAG[beaten]])
    return replace(row, ceiling_tokens_per_s=most, mbu=used, flags=flags)


def _fastest_16bit(table: Sequence[CellSummary]) -> CellSummary | None:
    able = [row for row in table if row.is_16bit and row.tpot_s is not None]
    return min(able, key=lambda row: row.tpot_s or 0.0, default=None)


def _against(row: CellSummary, baseline: CellSummary | None) -> CellSummary:
    if baseline is None or row.status != "ok":
        return row
    saved = 1 - row.weights_bytes / baseline.weights_bytes if row.weights_bytes and baseline.weights_bytes else None
    if row is baseline:
        return replace(row, baseline=row.method, is_baseline=True, speedup=1.0, memory_saved=saved)
    ratio, ratio_interval = speedup_over(baseline.process_tpots_s, row.process_tpots_s)
    return replace(row, baseline=baseline.method, speedup=ratio, speedup_interval=ratio_interval, memory_saved=saved)


def _distinct(items: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(items))


def _whole(values: Iterable[int | None]) -> int | None:
    found = stats.median_of_known(values)
    return None if found is None else int(found)


def _greatest(values: Iterable[int | None]) -> int | None:
    return max((v for v in values if v is not None), default=None)
