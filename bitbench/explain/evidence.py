"""The numbers a verdict rests on, a line each."""

from bitbench.explain import thresholds
from bitbench.explain.cause import Finding
from bitbench.explain.step import Step, is_small
from bitbench.facts.profile import Role
from bitbench.results import units

_WORTH_SAYING = 0.05
_PROJECTIONS: tuple[Role, ...] = ("projections", "lm_head")


def evidence(found: Finding) -> tuple[str, ...]:
    """Limits first, then how busy the device was, then what the kind of verdict rests on."""
    step = found.step
    lines = [_bytes(step), _flops(found), _roles_on_cpu(step) if step.on_cpu else _busy(step)]
    if found.kind in ("launch_bound", "sync_bound"):
        lines += [_launches(found), _waits(found), _twin(found)]
    elif found.kind in ("small_kernel_bound", "below_bandwidth", "mixed"):
        lines += [*_projections(step), _others(step), _graph_gaps(step)]
    return tuple(line for line in lines if line)


def _bytes(step: Step) -> str:
    if step.bytes_s is None or step.bandwidth_bytes_per_s is None:
        return ""
    return (
        f"reading {units.memory(step.num_bytes)} at {units.bandwidth(step.bandwidth_bytes_per_s)} (measured) takes "
        f"{units.duration(step.bytes_s)}, {_of(step, step.bytes_s)}"
    )


def _flops(found: Finding) -> str:
    step = found.step
    said = step.stage == "prefill" or found.kind == "compute_bound"
    if step.flops_s is None or step.flops is None or step.flops_per_s is None:
        return ""
    if not said and step.share(step.flops_s) < _WORTH_SAYING:
        return ""
    rate = f"{units.significant(step.flops_per_s / 1e12)} TFLOP/s"
    return (
        f"{units.significant(step.flops / 1e9)} GFLOP at {rate} (a large 16-bit product, measured) take "
        f"{units.duration(step.flops_s)}, {_of(step, step.flops_s)}"
    )


def _busy(step: Step) -> str:
    if step.busy_s is None:
        return ""
    ran = f"kernels ran for {units.duration(step.busy_s)} of {units.duration(step.time_s)}"
    if step.busy_s > step.time_s:
        return f"{ran}: more than the step takes without a profiler, so the two passes did not run alike"
    return f"{ran} ({units.percent(step.share(step.busy_s))} %)"


def _launches(found: Finding) -> str:
    step = found.step
    if not step.num_kernels or step.idle_s is None:
        return ""
    per_kernel = step.idle_s / step.num_kernels
    text = f"{_kernels(step.num_kernels)}, {units.duration(per_kernel)} without one running for each"
    if step.gaps_s is not None and step.node_gap_s is not None:
        return f"{text}; the graph needs {units.duration(step.node_gap_s)} between two that depend on each other"
    least = thresholds.PLAIN_LAUNCH_S
    if per_kernel < least:
        return text
    return f"{text}: a bare launch costs {units.duration(least)} or more, the rest is the software around it"


def _waits(found: Finding) -> str:
    if found.num_syncs is None or (found.kind == "launch_bound" and not found.twin):
        return ""
    source = "" if found.twin else "; no row without them was measured, so their cost is not known"
    return f"the host waits for the GPU {units.count(found.num_syncs)} times{source}"


def _twin(found: Finding) -> str:
    if found.twin is None:
        return ""
    label, gain = found.twin.row.method, units.ratio(found.twin.speedup)
    if found.twin.faster:
        return f"tested: {label}, the same kernel without these waits and what they bring, is {gain} as fast"
    return f"tested: {label}, the same kernel without these waits, is no faster ({gain})"


def _projections(step: Step) -> list[str]:
    """What the kernels that read weights do, and whether their size alone explains it."""
    bandwidth = step.bandwidth_bytes_per_s
    roles = [r for r in step.profile.roles if r.role in _PROJECTIONS] if step.profile else []
    told = []
    for role in roles:
        if role.bytes_read is None or not role.num_kernels or not role.busy_s or not bandwidth:
            continue
        each, size = role.busy_s / role.num_kernels, role.bytes_read / role.num_kernels
        rate = role.bytes_read / role.busy_s / bandwidth
        perfect = thresholds.MEMORY_LATENCY_S + size / bandwidth
        told.append(
            f"{role.role}: {_kernels(role.num_kernels)} of {units.memory(size)} and {units.duration(each)}, "
            f"{units.percent(rate)} % of the bandwidth; a perfect kernel of that size takes {units.duration(perfect)}"
        )
    if told and bandwidth:
        least = units.memory(thresholds.large_kernel_bytes(bandwidth))
        told.append(f"a kernel of less than {least} cannot reach {thresholds.BANDWIDTH_SHARE:.0%} of the bandwidth")
    return told


def _others(step: Step) -> str:
    roles = [r for r in step.profile.roles if r.role not in _PROJECTIONS] if step.profile else []
    busy = sum(r.busy_s for r in roles)
    number = sum(r.num_kernels for r in roles)
    if not busy or not number:
        return ""
    if number < 1:
        return f"one kernel runs for {1 / number:.0f} steps: no host and no gap between kernels is in it"
    small = sum(r.num_kernels for r in roles if is_small(r, step.bandwidth_bytes_per_s))
    return (
        f"{_kernels(number, 'other ')}, {units.duration(busy / number)} each, take "
        f"{units.duration(busy)}, {_of(step, busy)}; {units.count(small)} of them are small"
    )


def _graph_gaps(step: Step) -> str:
    if step.gaps_s is None or step.node_gap_s is None:
        return ""
    return (
        f"{units.count(step.num_kernels)} gaps of {units.duration(step.node_gap_s)} between the graph's kernels take "
        f"{units.duration(step.gaps_s)}, {_of(step, step.gaps_s)}"
    )


def _roles_on_cpu(step: Step) -> str:
    if step.profile is None or step.busy_s is None:
        return ""
    total = sum(r.busy_s for r in step.profile.roles)
    weights = sum(r.busy_s for r in step.profile.roles if r.role in _PROJECTIONS)
    if not total:
        return ""
    share = units.percent(weights / total)
    return (
        f"operators take {units.duration(step.busy_s)} of {units.duration(step.time_s)}, and {share} % of that are "
        "the projections and lm_head"
    )


def _kernels(number: float, which: str = "") -> str:
    return f"{units.per_step(number)} {which}kernel{'' if number == 1 else 's'}"


def _of(step: Step, seconds: float) -> str:
    whole = "a step" if step.stage == "decode" else "the prefill"
    return f"{units.percent(step.share(seconds))} % of {whole}"
