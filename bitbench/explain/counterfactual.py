"""What would happen otherwise: measured rows that differ from a given one in a single thing, and an estimate where
there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bitbench.explain.thresholds import MANY_SYNCS, SYNC_GAIN
from bitbench.facts.profile import Stage
from bitbench.results.baseline import speedup_over, verdict
from bitbench.results.row_checks import counts_throttled
from bitbench.results.stats import Interval
from bitbench.results.summary import CellSummary

HOSTLESS: dict[str, tuple[str, ...]] = {"transformers": ("graphed", "compiled")}
"""Engines that run another's own modules with the host's work for each kernel taken out. vLLM is not among them: it
has kernels of its own, so a difference to it would have two causes.
"""


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """The same row without the host. `engine` names the measured row, None for an estimate.

    `tokens_per_s` is None where the measured row failed; `reason` then says how.
    """

    engine: str | None
    tokens_per_s: float | None
    speedup: float | None = None
    interval: Interval | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Twin:
    """A measured row like the given one, on the same kernel, that does not wait in its layers.

    `speedup` is its speed over the given row's; `faster` whether that is beyond the noise and SYNC_GAIN.
    """

    row: CellSummary
    speedup: float
    faster: bool


def without_host(row: CellSummary, rows: Sequence[CellSummary]) -> tuple[Counterfactual, ...]:
    """The rows measured without the host, fastest first; where none ran, what the busy time alone would allow last.

    Empty where nothing is known. A row that was slowed down has no such estimate: it is not of the same clock.
    """
    if not row.tpot_s:
        return ()
    found = [_measured(row, other) for other in rows if _only_engine_differs(row, other)]
    if not any(f.tokens_per_s for f in found) and row.gpu_busy_s and not counts_throttled(row):
        most = row.batch_size / row.gpu_busy_s
        found.append(Counterfactual(None, most, most * row.tpot_s / row.batch_size))
    return tuple(sorted(found, key=lambda f: (f.engine is None, -(f.tokens_per_s or 0.0))))


def _only_engine_differs(row: CellSummary, other: CellSummary) -> bool:
    # The engine is the second part of a table's key.
    same_table = (row.table_key[0], *row.table_key[2:]) == (other.table_key[0], *other.table_key[2:])
    # A row that failed before its checkpoint was known is still about this one.
    same_numbers = other.checkpoint_hash in ("", row.checkpoint_hash)
    return same_table and same_numbers and row.method == other.method and other.engine in HOSTLESS.get(row.engine, ())


def _measured(row: CellSummary, other: CellSummary) -> Counterfactual:
    if other.status != "ok" or other.tpot_s is None:
        reason = f"{other.status}: {other.reason}" if other.reason else other.status
        return Counterfactual(other.engine, None, reason=reason)
    speedup, interval = speedup_over(row.process_tpots_s, other.process_tpots_s)
    return Counterfactual(other.engine, other.decode_tokens_per_s, speedup, interval)


def without_waits(row: CellSummary, stage: Stage, rows: Sequence[CellSummary]) -> Twin | None:
    """The fastest row that differs from this one in not waiting, by what both were seen to do; None without one."""
    twins = [_twin(row, stage, other) for other in rows if _waits_less(row, stage, other)]
    return max((t for t in twins if t), key=lambda t: t.speedup, default=None)


def num_syncs(row: CellSummary, stage: Stage) -> float | None:
    """Waits of the host in a step of this stage; None where they could not be seen."""
    found = row.profile(stage)
    return found.num_syncs if found else None


def _waits_less(row: CellSummary, stage: Stage, other: CellSummary) -> bool:
    waits = num_syncs(other, stage)
    alike = (row.kernel, row.weight_bits, row.table_key) == (other.kernel, other.weight_bits, other.table_key)
    return alike and waits is not None and waits < MANY_SYNCS


def _twin(row: CellSummary, stage: Stage, other: CellSummary) -> Twin | None:
    if stage == "prefill":
        speedup, interval = (row.ttft_s / other.ttft_s if row.ttft_s and other.ttft_s else None), None
    else:
        speedup, interval = speedup_over(row.process_tpots_s, other.process_tpots_s)
    if speedup is None:
        return None
    return Twin(other, speedup, verdict(speedup, interval) == "faster" and speedup >= 1 + SYNC_GAIN)
