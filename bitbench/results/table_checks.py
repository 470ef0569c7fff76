"""Warnings about rows together: those of one table, or of all files. To add one, add an entry to TABLE_CHECKS or
FILE_CHECKS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitbench.results.summary import CellSummary

LOW_MBU = 0.10
"""Below a tenth of the bandwidth, reading weights is at most a tenth of a step, so fewer bits can win at most 1.1x
by it.
"""

MOSTLY_IDLE = 0.5
"""A GPU that is busy for less than half of a step waits for most of it."""


@dataclass(frozen=True, slots=True)
class TableCheck:
    """A warning about rows together: `applies` gives the detail to show, or None."""

    name: str
    title: str
    advice: str
    applies: Callable[[Sequence[CellSummary]], str | None]


def all_far_below_ceiling(rows: Sequence[CellSummary]) -> bool:
    """Every row with a known MBU used less than a tenth of the read bandwidth."""
    used = [s.mbu for s in rows if s.mbu is not None]
    return bool(used) and max(used) < LOW_MBU


def _far_below(rows: Sequence[CellSummary]) -> str | None:
    if any(s.device == "cpu" for s in rows) or not all_far_below_ceiling(rows):
        return None
    most = max(s.mbu for s in rows if s.mbu is not None)
    return f"at most {most:.1%} of the read bandwidth was used"


def _unprofiled(rows: Sequence[CellSummary]) -> str | None:
    return _far_below(rows) if all(s.gpu_busy is None for s in rows) else None


def _host_speeds(rows: Sequence[CellSummary]) -> str | None:
    """Where every row that was profiled waited."""
    detail, profiled = _far_below(rows), [s for s in rows if s.gpu_busy is not None]
    if not detail or not profiled or any((s.gpu_busy or 0.0) >= MOSTLY_IDLE for s in profiled):
        return None
    busiest = max(profiled, key=lambda s: s.gpu_busy or 0.0)
    timed = sum(s.tpot_s is not None for s in rows)
    seen = "" if len(profiled) == timed else f", seen in {len(profiled)} of {timed} rows"
    return f"{detail}; the GPU was busy for at most {busiest.gpu_busy:.0%} of a step{seen}"


def _kernel_speeds(rows: Sequence[CellSummary]) -> str | None:
    """Where some profiled row kept the GPU busy all the same."""
    if not any((s.gpu_busy or 0.0) >= MOSTLY_IDLE for s in rows):
        return None
    return _far_below(rows)


def _fp16_cpu(rows: Sequence[CellSummary]) -> str | None:
    baseline = next((s for s in rows if s.is_baseline), None)
    if baseline is None or baseline.device != "cpu" or not baseline.dtype.endswith("float16"):
        return None
    tried = any(s.is_16bit and s.dtype.endswith("bfloat16") for s in rows)
    return None if tried else f"{baseline.method} is the only 16-bit row"


def _several_checkpoints(rows: Sequence[CellSummary]) -> str | None:
    hashes: dict[str, set[str]] = {}
    for s in rows:
        if s.checkpoint_hash:
            hashes.setdefault(s.method, set()).add(s.checkpoint_hash)
    several = [method for method, found in hashes.items() if len(found) > 1]
    return ", ".join(several) or None


def _no_baseline(rows: Sequence[CellSummary]) -> str | None:
    return "" if any(s.tpot_s is not None for s in rows) and not any(s.is_baseline for s in rows) else None


TABLE_CHECKS: tuple[TableCheck, ...] = (
    TableCheck(
        "no_baseline",
        "no 16-bit row to compare with",
        "measure one in the same run (--method)",
        _no_baseline,
    ),
    TableCheck(
        "several_checkpoints",
        "one method ran with different numbers, which are rows of their own",
        "the model or the quantizer changed between runs: keep the runs apart",
        _several_checkpoints,
    ),
    TableCheck(
        "fp16_on_cpu",
        "float16 is the baseline on a CPU, where it is often slower than bfloat16",
        "measure a bfloat16 row too before believing a speed-up",
        _fp16_cpu,
    ),
    TableCheck(
        "unprofiled_speeds",
        "reading weights does not set these speeds",
        "they may be the software's rather than the precisions': without a profile it is only known that the "
        "bandwidth was not the limit",
        _unprofiled,
    ),
    TableCheck(
        "host_speeds",
        "reading weights does not set these speeds",
        "the GPU waited most of the time: these are speeds of the host, not of the precisions (bitbench explain FILE)",
        _host_speeds,
    ),
    TableCheck(
        "kernel_speeds",
        "reading weights does not set these speeds",
        "launches and small or slow kernels do: bitbench explain FILE says which, row by row",
        _kernel_speeds,
    ),
)


def _several_environments(rows: Sequence[CellSummary]) -> str | None:
    found = {s.environment.pool_key: s.environment for s in rows}
    if len(found) < 2:
        return None
    first, *others = found.values()
    differing = {
        name for other in others for name in first.model_fields_set if getattr(first, name) != getattr(other, name)
    }
    return f"{len(found)} (they differ in {', '.join(sorted(differing))})"


FILE_CHECKS: tuple[TableCheck, ...] = (
    TableCheck(
        "several_environments",
        "records of several environments: never pooled, a table each",
        "compare rows of one table only",
        _several_environments,
    ),
)
