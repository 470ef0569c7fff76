"""Rows of the table: what the records of one cell, on one environment and checkpoint, say together."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from bitbench.facts.status import Flag
from bitbench.results import ceiling, stats
from bitbench.results.baseline import speedup_over
from bitbench.results.cell_quality import Qualities, cell_quality
from bitbench.results.cell_summary import CellSummary, TableKey
from bitbench.results.pareto import with_pareto
from bitbench.results.pool import Pool, Process, pools
from bitbench.results.record import Ending, QualityRecord, Record

__all__ = ["CellSummary", "TableKey", "summarize"]

_T = TypeVar("_T")
_CACHE_FLAG: dict[str, tuple[Flag, ...]] = {"no": (), "cache": ("beats_cache_ceiling",)}


def summarize(
    records: Sequence[Record], endings: Sequence[Ending] = (), qualities: Sequence[QualityRecord] = ()
) -> list[CellSummary]:
    """One row for each cell, environment and checkpoint, in the order of first appearance; then those of which only
    quality is known.
    """
    found = Qualities(qualities)
    rows = [_summary(pool, found.of(pool)) for pool in pools(records, endings)]
    rows += [_only_quality(record) for record in found.unused()]
    return with_pareto(_compared(rows))


def _compared(rows: Sequence[CellSummary]) -> list[CellSummary]:
    """Against the baseline of each table."""
    tables: dict[TableKey, list[CellSummary]] = {}
    for row in rows:
        tables.setdefault(row.table_key, []).append(row)
    baselines = {key: _fastest_16bit(table) for key, table in tables.items()}
    return [_against(row, baselines[row.table_key]) for row in rows]


def _summary(pool: Pool, quality: QualityRecord | None) -> CellSummary:
    row = _with_bytes(_identity(pool), pool.ok)
    if quality is not None and quality.status == "incorrect":
        return replace(row, status="incorrect", reason=quality.reason)
    row = replace(row, quality=cell_quality(quality))
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


def _only_quality(record: QualityRecord) -> CellSummary:
    return CellSummary(
        model=record.subject.model,
        model_title=record.model_title or record.subject.model,
        method=record.subject.method_label,
        scheme=record.scheme,
        weight_bits=record.weight_bits,
        dtype=record.dtype,
        engine=record.subject.engine,
        kernel=record.kernel.name if record.kernel else "",
        workload="",
        batch_size=1,
        output_len=0,
        device=record.subject.device,
        environment=record.environment,
        checkpoint_hash=record.checkpoint_hash,
        run_ids=(record.run_id,),
        status=record.status,
        reason=record.reason,
        notes=record.notes,
        weights_bytes=record.weights_bytes,
        quality=cell_quality(record),
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
