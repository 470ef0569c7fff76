"""What to do about a verdict. Each line follows from what was measured; what was not is said to be so."""

from collections.abc import Callable, Sequence

from bitbench.explain.cause import Finding, Kind
from bitbench.explain.counterfactual import HOSTLESS, without_host
from bitbench.explain.step import sizes
from bitbench.results import units
from bitbench.results.summary import CellSummary

_AMORTISE = "a larger batch or model spreads the same launches over more work"


def advice(found: Finding, row: CellSummary, rows: Sequence[CellSummary]) -> str:
    """One line for a row and its verdict."""
    return _ADVICE[found.kind](found, row, rows)


def _launch(found: Finding, row: CellSummary, rows: Sequence[CellSummary]) -> str:
    if found.in_graph:
        return f"fewer kernels: an engine that fuses them; {_AMORTISE}"
    if found.step.stage == "prefill":
        return "a longer prompt or a larger batch should take hardly longer: the same launches carry more tokens"
    tried = without_host(row, rows)
    best = next((c for c in tried if c.engine and c.tokens_per_s and (c.speedup or 0.0) > 1), None)
    if best:
        return f"--engine {best.engine}: {units.significant(best.tokens_per_s)} tok/s measured with the same weights"
    untried = [e for e in HOSTLESS.get(row.engine, ()) if e not in {c.engine for c in tried}]
    if untried:
        return f"measure it without the host's work (--engine {untried[0]}); {_AMORTISE}"
    return _AMORTISE


def _sync(found: Finding, row: CellSummary, rows: Sequence[CellSummary]) -> str:
    if found.twin and found.twin.faster:
        label, gain = found.twin.row.method, units.ratio(found.twin.speedup)
        return f"take {label}: the same kernel without the waits, {gain} as fast"
    return "measure a method that does not ask the GPU in each layer (for LLM.int8() that is threshold 0)"


def _small(found: Finding, row: CellSummary, rows: Sequence[CellSummary]) -> str:
    return (
        "fewer and larger kernels: an engine that fuses them, a larger batch or a larger model; fewer bits make each "
        "kernel smaller still"
    )


def _below(found: Finding, row: CellSummary, rows: Sequence[CellSummary]) -> str:
    return (
        "try another kernel for the same weights (bitbench methods lists them); hardware counters (Nsight Compute) "
        "can name the cause"
    )


def _bandwidth(found: Finding, row: CellSummary, rows: Sequence[CellSummary]) -> str:
    return (
        "fewer bytes are faster from here on: fewer bits or a shorter context; a larger batch reads the weights once "
        "for all its sequences"
    )


def _compute(found: Finding, row: CellSummary, rows: Sequence[CellSummary]) -> str:
    return "storing fewer bits does not help; multiplying in fewer (int8, fp8) can, and so does a faster GPU"


def _cpu(found: Finding, row: CellSummary, rows: Sequence[CellSummary]) -> str:
    step = found.step
    if step.busy_s is None:
        return "a profile tells the matrix products from the rest (bitbench run --profile)"
    if found.outside_operators:
        return "most time passes outside the operators: an idle machine, or an engine with less Python per operator"
    return "most time passes in the operators: another dtype or kernel for this CPU, or more cores"


def _mixed(found: Finding, row: CellSummary, rows: Sequence[CellSummary]) -> str:
    by_size = sizes(found.step)
    if by_size is None:
        return "no single change will double this speed"
    parts = {
        "the host's launches": found.step.idle_s or 0.0,
        "the number of small kernels": by_size.small_s,
        "the large kernels": by_size.large_s,
    }
    return f"no single change will double this speed; begin with {max(parts, key=parts.__getitem__)}"


_ADVICE: dict[Kind, Callable[[Finding, CellSummary, Sequence[CellSummary]], str]] = {
    "launch_bound": _launch,
    "sync_bound": _sync,
    "small_kernel_bound": _small,
    "below_bandwidth": _below,
    "bandwidth_bound": _bandwidth,
    "compute_bound": _compute,
    "cpu_bound": _cpu,
    "mixed": _mixed,
}
