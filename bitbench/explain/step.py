"""One decode step, or one prefill, and what its time consists of. Seconds throughout."""

from collections.abc import Sequence
from dataclasses import dataclass

from bitbench.explain.thresholds import LARGE_KERNEL_S, large_kernel_bytes
from bitbench.facts.profile import RoleTime, Stage, StageProfile
from bitbench.results.row_checks import counts_throttled
from bitbench.results.summary import CellSummary

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a step's time, by the name it has in a bar."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it was timed without a profiler, and what a profiled pass says of it.

    `time_s` is the median TPOT (prefill: TTFT). `bytes_s` and `flops_s` are what reading its bytes and computing its
    operations take at the least, at the measured bandwidth and the measured rate of a large product; None where
    unknown. `profile` is None without a usable one. `node_gap_s` is set where the device repeats the step from a CUDA
    graph: what that needs between two kernels. `slowed`: the device was, while the step was timed, so it is longer than
    in the profiled pass without being idle.
    """

    stage: Stage
    time_s: float
    on_cpu: bool
    num_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    flops: int | None = None
    flops_per_s: float | None = None
    profile: StageProfile | None = None
    node_gap_s: float | None = None
    slowed: bool = False

    @property
    def bytes_s(self) -> float | None:
        """Bytes / measured read bandwidth."""
        known = self.num_bytes is not None and self.bandwidth_bytes_per_s
        return self.num_bytes / self.bandwidth_bytes_per_s if known else None  # type: ignore[operator]

    @property
    def flops_s(self) -> float | None:
        """Operations / measured rate of a large 16-bit product."""
        return self.flops / self.flops_per_s if self.flops is not None and self.flops_per_s else None

    @property
    def ceiling_s(self) -> float | None:
        """The least time that a step can take: the longer of the two."""
        return max((s for s in (self.bytes_s, self.flops_s) if s is not None), default=None)

    @property
    def busy_s(self) -> float | None:
        """Union of kernel intervals; on a CPU the operators' own time."""
        return self.profile.busy_s if self.profile else None

    @property
    def idle_s(self) -> float | None:
        """The rest of the step; 0 where the profiled pass was busy for longer than the timed step took."""
        return max(0.0, self.time_s - self.busy_s) if self.busy_s is not None else None

    @property
    def num_kernels(self) -> float:
        """Kernels (on a CPU: operators) launched in a step; 0 where unknown."""
        return self.profile.num_kernels or 0.0 if self.profile else 0.0

    @property
    def gaps_s(self) -> float | None:
        """Kernels x the gap between two nodes of a CUDA graph; None where the step is not repeated from one."""
        if self.node_gap_s is None or not self.profile or self.num_kernels < 1:
            return None
        return self.num_kernels * self.node_gap_s

    def share(self, seconds: float) -> float:
        """Of the step, a fraction."""
        return seconds / self.time_s


def step_of(row: CellSummary, stage: Stage) -> Step | None:
    """The step of a row; None where the row has no such time."""
    time_s = row.tpot_s if stage == "decode" else row.ttft_s
    if row.status != "ok" or not time_s:
        return None
    found = row.profile(stage)
    usable = found if found and found.source != "none" and found.busy_s is not None else None
    return Step(
        stage=stage,
        time_s=time_s,
        on_cpu=row.device == "cpu" or bool(usable and usable.source == "operators"),
        num_bytes=_bytes(row, stage, usable),
        bandwidth_bytes_per_s=row.bandwidth_bytes_per_s,
        flops=usable.flops if usable else None,
        flops_per_s=row.matmul_flops_per_s,
        profile=usable,
        # Only an engine that repeats a whole step on the device times it there; a prefill is launched by the host.
        node_gap_s=row.node_gap_s if stage == "decode" and row.itl_clock == "device" else None,
        slowed=counts_throttled(row),
    )


def _bytes(row: CellSummary, stage: Stage, profile: StageProfile | None) -> int | None:
    """A decode step's are those of the row's MBU, so that both say the same."""
    if stage == "decode" and row.bytes_per_step is not None:
        return row.bytes_per_step
    return profile.bytes_read if profile else None


def bar(step: Step) -> tuple[Part, ...]:
    """The parts of the step's time; none is negative and they add up to it.

    The ceiling comes first, what is left of the busy time next, so a part is cut where the ones before leave no room.
    """
    busy, rest = ("operators", "outside operators") if step.on_cpu else ("GPU busy", "GPU idle")
    if step.slowed:
        rest = f"{rest}, or slowed down"
    known = [Part("ceiling", step.ceiling_s or 0.0)]
    if step.busy_s is None:
        return _filled(known, step.time_s, "not known without a profile")
    known.append(Part(f"rest of {busy}", max(0.0, step.busy_s - known[0].seconds)))
    if step.gaps_s is not None:
        known.append(Part("gaps between kernels", min(step.gaps_s, step.idle_s or 0.0)))
    return _filled(known, step.time_s, rest)


def _filled(known: Sequence[Part], time_s: float, rest: str) -> tuple[Part, ...]:
    parts, left = [], time_s
    for part in known:
        parts.append(Part(part.name, min(part.seconds, left)))
        left -= parts[-1].seconds
    # What remains of a subtraction that comes out even is rounding, not a part.
    return (*parts, Part(rest, left if left > _ROUNDING * time_s else 0.0))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Busy time in kernels too small to reach the bandwidth, and in larger ones; together it is the busy time."""

    small_s: float
    large_s: float


def sizes(step: Step) -> Sizes | None:
    """Busy time by the size of kernels, judged role by role by the mean kernel; None without a profile.

    Small: it reads fewer bytes than `large_kernel_bytes`, or where those are unknown lasts less than LARGE_KERNEL_S.
    Roles are sums and overlap, so their shares are taken of the busy time, which is a union.
    """
    if step.profile is None or step.busy_s is None:
        return None
    total = sum(role.busy_s for role in step.profile.roles)
    if not total:
        small = bool(step.num_kernels) and step.busy_s / step.num_kernels < LARGE_KERNEL_S
        return Sizes(step.busy_s, 0.0) if small else Sizes(0.0, step.busy_s)
    small_s = step.busy_s * sum(r.busy_s for r in step.profile.roles if is_small(r, step.bandwidth_bytes_per_s)) / total
    return Sizes(small_s, step.busy_s - small_s)


def is_small(role: RoleTime, bandwidth_bytes_per_s: float | None) -> bool:
    """Whether the mean kernel of a role is too small to reach the bandwidth."""
    if not role.num_kernels:
        return False
    if role.bytes_read is None or not bandwidth_bytes_per_s:
        return role.busy_s / role.num_kernels < LARGE_KERNEL_S
    return role.bytes_read / role.num_kernels < large_kernel_bytes(bandwidth_bytes_per_s)
