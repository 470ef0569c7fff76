"""Which of eight causes sets the speed of a row, found from its numbers alone, never from its name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bitbench.explain import thresholds
from bitbench.explain.counterfactual import Twin, num_syncs, without_waits
from bitbench.explain.step import Step, sizes, step_of
from bitbench.facts.profile import Stage
from bitbench.results.summary import CellSummary

Kind = Literal[
    "bandwidth_bound",
    "compute_bound",
    "cpu_bound",
    "sync_bound",
    "launch_bound",
    "small_kernel_bound",
    "below_bandwidth",
    "mixed",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order in which they are tried; of the first two the one that needs more of the step."""

MEANINGS: dict[Kind, str] = {
    "bandwidth_bound": f"reading its bytes needs at least {thresholds.BANDWIDTH_SHARE:.0%} of the step",
    "compute_bound": f"its arithmetic needs at least {thresholds.COMPUTE_SHARE:.0%} of the step",
    "cpu_bound": "a CPU computes it, and neither of these limits is near",
    "sync_bound": "the GPU is idle for more than half of the step, and the host waits for it in every layer",
    "launch_bound": "the GPU is idle for more than half of the step, between kernels that have yet to be launched",
    "small_kernel_bound": "more than half of the step goes to kernels too small to reach the memory's bandwidth",
    "below_bandwidth": "more than half of the step goes to large kernels that read far below the bandwidth; times "
    "alone do not tell why",
    "mixed": "nothing takes more than half of the step",
}
"""What each verdict means, for docs/metrics.md."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A step with its verdict. `twin` is a measured row on the same kernel that does not wait in its layers."""

    kind: Kind
    step: Step
    num_syncs: float | None = None
    twin: Twin | None = None

    @property
    def in_graph(self) -> bool:
        """The step is repeated from a CUDA graph, so no host launches its kernels."""
        return self.step.node_gap_s is not None

    @property
    def outside_operators(self) -> bool:
        """On a CPU: most of the step passes outside the operators."""
        return self.step.on_cpu and (self.step.idle_s or 0.0) > thresholds.MOST * self.step.time_s


def find(row: CellSummary, stage: Stage, rows: Sequence[CellSummary] = ()) -> Finding | None:
    """The verdict on a row's decode step or prefill. `rows` may hold the row without waits that tests the cause.

    None where there is no time to explain, or no profile and the bytes do not explain it.
    """
    step = step_of(row, stage)
    if step is None:
        return None
    waits = num_syncs(row, stage)
    many = waits is not None and waits >= thresholds.MANY_SYNCS
    twin = without_waits(row, stage, rows) if many else None
    kind = _limit(step) or ("cpu_bound" if step.on_cpu else _cause(step, many and (twin is None or twin.faster)))
    return Finding(kind, step, waits, twin) if kind else None


def _limit(step: Step) -> Kind | None:
    """A physical limit that is nearly reached; where both are, the one that needs more of the step."""
    read, computed = step.share(step.bytes_s or 0.0), step.share(step.flops_s or 0.0)
    reached: list[tuple[float, Kind]] = []
    if read >= thresholds.BANDWIDTH_SHARE:
        reached.append((read, "bandwidth_bound"))
    if computed >= thresholds.COMPUTE_SHARE:
        reached.append((computed, "compute_bound"))
    return max(reached)[1] if reached else None


def _cause(step: Step, waits: bool) -> Kind | None:
    """What takes most of a step that is far from its limits; None without a profile."""
    found = sizes(step)
    if found is None or step.idle_s is None:
        return None
    most = thresholds.MOST * step.time_s
    if step.idle_s > most:
        return "sync_bound" if waits else "launch_bound"
    # Kernels that were busy for longer than the timed step took are scaled to it.
    scale = min(1.0, step.time_s / (step.busy_s or step.time_s))
    if found.small_s * scale > most:
        return "small_kernel_bound"
    return "below_bandwidth" if found.large_s * scale > most else "mixed"
