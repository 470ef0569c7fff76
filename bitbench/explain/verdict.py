"""The verdict on a row in words: a sentence for a newcomer, the numbers it rests on, and what to do about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitbench.explain.advice import advice
from bitbench.explain.cause import Finding, Kind, find
from bitbench.explain.evidence import evidence
from bitbench.explain.step import sizes
from bitbench.facts.profile import Stage
from bitbench.results import units
from bitbench.results.summary import CellSummary


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a step (prefill) takes its time. `evidence` are lines that carry the numbers."""

    kind: Kind
    sentence: str
    evidence: tuple[str, ...]
    advice: str


def judge(row: CellSummary, stage: Stage = "decode", rows: Sequence[CellSummary] = ()) -> Verdict | None:
    """The verdict on a row, in the light of the other rows that were measured; None where nothing can be said."""
    found = find(row, stage, rows)
    if found is None:
        return None
    return Verdict(found.kind, _SENTENCES[found.kind](found), evidence(found), advice(found, row, rows))


def _launch(found: Finding) -> str:
    idle = _idle(found)
    if found.in_graph:
        return (
            f"The GPU repeats the step by itself from a CUDA graph, yet for {idle} of it no kernel runs: starting one "
            "kernel after another takes the time, inside the graph."
        )
    return (
        f"For {idle} of {_a(found)} the GPU does nothing: it waits for the host to launch the next kernel. The "
        "software sets this speed, neither the GPU nor the precision."
    )


def _sync(found: Finding) -> str:
    waits = units.count(found.num_syncs or 0)
    return (
        f"In {_a(found)} the host stops {waits} times to wait for an answer from the GPU, which then has nothing to do "
        f"until the host goes on: it is idle for {_idle(found)} of the time. This is waiting, not the precision."
    )


def _small(found: Finding) -> str:
    between = "" if found.in_graph else f", and for {_idle(found)} of {_a(found)} it does nothing between them"
    return (
        "The GPU is busy, but mostly with kernels too small to bring its memory up to speed, however well they are "
        f"written{between}: their number sets this speed, not the bytes they read."
    )


def _below(found: Finding) -> str:
    read = found.step.bytes_s
    far = f" at {_percent(found, read)} of its bandwidth" if read is not None else ""
    return (
        f"The GPU is busy with large kernels, yet over {_a(found)} its memory is read{far} only. The kernels set this "
        "speed; what holds them up (unpacking, say) cannot be told from times alone."
    )


def _bandwidth(found: Finding) -> str:
    return (
        f"Reading the weights and the KV cache needs {_percent(found, found.step.bytes_s)} of {_a(found)} even at full "
        "bandwidth: the memory sets this speed, as it should."
    )


def _compute(found: Finding) -> str:
    return (
        f"Arithmetic needs {_percent(found, found.step.flops_s)} of {_a(found)} even at the rate of a large matrix "
        "product: the multipliers set this speed, as they should."
    )


def _cpu(found: Finding) -> str:
    read = found.step.bytes_s
    least = f"; reading them needs only {_percent(found, read)} of {_a(found)}, so it is not the memory" if read else ""
    if found.outside_operators:
        return (
            f"For {_idle(found)} of {_a(found)} the CPU is not in the model's operators but in the software around "
            "them, or busy with other programs: that sets this speed, not the precision."
        )
    return f"The CPU itself unpacks and multiplies the weights, and that sets this speed{least}."


def _mixed(found: Finding) -> str:
    step, by_size = found.step, sizes(found.step)
    if by_size is None:
        return "No single cause takes half of the step."
    parts = (("idle", step.idle_s or 0.0), ("small kernels", by_size.small_s), ("large kernels", by_size.large_s))
    told = ", ".join(f"{name} {_percent(found, seconds)}" for name, seconds in parts)
    return f"No single cause takes half of {_a(found)}: {told}."


def _idle(found: Finding) -> str:
    return _percent(found, found.step.idle_s)


def _percent(found: Finding, seconds: float | None) -> str:
    return f"{units.percent(found.step.share(seconds or 0.0))} %"


def _a(found: Finding) -> str:
    return "each step" if found.step.stage == "decode" else "the prefill"


_SENTENCES: dict[Kind, Callable[[Finding], str]] = {
    "launch_bound": _launch,
    "sync_bound": _sync,
    "small_kernel_bound": _small,
    "below_bandwidth": _below,
    "bandwidth_bound": _bandwidth,
    "compute_bound": _compute,
    "cpu_bound": _cpu,
    "mixed": _mixed,
}
