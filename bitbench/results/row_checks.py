"""Warnings about single rows: title, when each applies, and what to do. To add one, add an entry to ROW_CHECKS."""

from collections.abc import Callable
from dataclasses import dataclass

from bitbench.facts.samples import UNTUNED
from bitbench.facts.status import Flag
from bitbench.results.metrics import cold_ttft_s
from bitbench.results.pool import measured_samples, throttled_samples
from bitbench.results.stats import MIN_PROCESSES_FOR_T
from bitbench.results.summary import CellSummary

MAX_SPREAD_BETWEEN = 0.05
"""Half of pyperf's 10%: between processes there are few samples, and a speed-up of 1.1 is to be told from 1."""

MAX_SPREAD_WITHIN = 0.10
"""pyperf calls a benchmark unstable from a standard deviation of 10% of the mean."""

MIN_SAMPLES = 10
"""nvbench's least number of samples."""

COLD_TTFT_RATIO = 2.0
"""From here on the first request of a process is another experience than the TTFT in the table."""


@dataclass(frozen=True, slots=True)
class RowCheck:
    """A warning about single rows: `applies` gives the detail to show for a row, or None."""

    name: str
    title: str
    advice: str
    applies: Callable[[CellSummary], str | None]


def _few_processes(s: CellSummary) -> str | None:
    few = s.tpot_s is not None and s.num_processes < MIN_PROCESSES_FOR_T
    return f"{s.num_processes}" if few else None


def _spread_between(s: CellSummary) -> str | None:
    over = s.spread_between is not None and s.spread_between > MAX_SPREAD_BETWEEN
    return f"{s.spread_between:.0%}" if over else None


def _spread_within(s: CellSummary) -> str | None:
    over = s.spread_within is not None and s.spread_within > MAX_SPREAD_WITHIN
    return f"{s.spread_within:.0%}" if over else None


_ENDED = {
    "budget": "the budget ended first",
    "processes": "all processes asked for were run",
    "failure": "a process failed",
    "interrupt": "it was interrupted",
    "precision": "it was reached then, not over all the records here",
}


def _precision(s: CellSummary) -> str | None:
    e = s.ending
    if s.status != "ok" or e is None or e.asked_precision is None:
        return None
    if e.reached_precision is not None and e.reached_precision <= e.asked_precision:
        return None
    reached = (
        "unknown (it takes two processes that count)" if e.reached_precision is None else f"{e.reached_precision:.1%}"
    )
    return f"{reached} of {e.asked_precision:.1%} asked: {_ENDED[e.ended_by]}"


def counts_throttled(s: CellSummary) -> bool:
    """Whether samples during which the device was slowed down are among those that a row's speed is of: only where
    nothing else was left does a process keep one.
    """
    return any(throttled_samples(p.record) and len(p.samples) == len(measured_samples(p.record)) for p in s.processes)


def _throttled(s: CellSummary) -> str | None:
    if not s.num_throttled:
        return "seen" if "throttled" in s.flags else None
    return f"all {s.num_throttled}, so they count" if counts_throttled(s) else f"{s.num_throttled} left out"


def _flag(name: Flag) -> Callable[[CellSummary], str | None]:
    return lambda s: "" if name in s.flags else None


def _failed(s: CellSummary) -> str | None:
    return f"{s.num_failed} of {s.num_failed + s.num_processes} ({s.failure})" if s.num_failed else None


def _few_samples(s: CellSummary) -> str | None:
    return f"{s.num_samples}" if s.status == "ok" and s.num_samples < MIN_SAMPLES else None


def _cold(s: CellSummary) -> str | None:
    cold = cold_ttft_s(s)
    if cold is None or s.ttft_s is None or cold < COLD_TTFT_RATIO * s.ttft_s:
        return None
    return f"{cold / s.ttft_s:.0f}x"


ROW_CHECKS: tuple[RowCheck, ...] = (
    RowCheck(
        "failed_processes",
        "some processes failed, the others are shown",
        "find out why before trusting the row; their records are in the file",
        _failed,
    ),
    RowCheck(
        "fallback_kernel",
        "a fallback kernel ran, not the one meant for this checkpoint",
        "bitbench methods says what the other kernel needs",
        _flag("fallback_kernel"),
    ),
    RowCheck(
        "untuned",
        "kernels ran with block sizes that were not all measured on such a GPU",
        "bitbench tune MODEL -m METHOD --batch-size N finds faster ones and keeps them for later runs",
        lambda s: "" if s.kernel.endswith(UNTUNED) else None,
    ),
    RowCheck(
        "few_processes",
        "few processes: a range is given, not a confidence interval",
        f"processes differ more than prompts do: --processes {MIN_PROCESSES_FOR_T} gives a 95% interval",
        _few_processes,
    ),
    RowCheck(
        "few_samples", "few prompts were measured", f"use at least {MIN_SAMPLES} (--prompts, --processes)", _few_samples
    ),
    RowCheck(
        "spread_between",
        f"processes differ by more than {MAX_SPREAD_BETWEEN:.0%} (standard deviation)",
        "run more processes; bitbench doctor names what makes a machine uneven",
        _spread_between,
    ),
    RowCheck(
        "spread_within",
        f"prompts of one process differ by more than {MAX_SPREAD_WITHIN:.0%} (standard deviation)",
        "look for other load (bitbench doctor); more prompts narrow the median",
        _spread_within,
    ),
    RowCheck("precision", "the asked precision was not reached", "raise --budget or --processes", _precision),
    RowCheck(
        "throttled",
        "samples were throttled: the device was slowed down",
        "cool it, raise the power limit or wait; bitbench doctor shows the reasons",
        _throttled,
    ),
    RowCheck(
        "unstable",
        "warm-up never settled",
        "the first prompts may still be slower; run again, longer",
        _flag("unstable"),
    ),
    RowCheck(
        "noisy_tokens",
        "tokens are not what the model finds most likely when it reads them at once",
        "eager transformers' own are not either: the method rounds so coarsely that the last bit of its input decides",
        _flag("noisy_tokens"),
    ),
    RowCheck(
        "busy_device",
        "other processes used the GPU",
        "stop them and run again (bitbench doctor lists them)",
        _flag("busy_device"),
    ),
    RowCheck(
        "busy_host",
        "other processes used the CPU",
        "stop them and run again (bitbench doctor lists them)",
        _flag("busy_host"),
    ),
    RowCheck(
        "outlier",
        "single prompts lie far off",
        "they are kept, and medians hardly move; look at the samples in the file",
        _flag("outlier"),
    ),
    RowCheck(
        "beats_cache_ceiling",
        "faster than main memory can be read",
        "the weights fit in a cache (or its size is unknown), so the ceiling says little here: use a larger model",
        _flag("beats_cache_ceiling"),
    ),
    RowCheck(
        "cold_ttft",
        "TTFT is that of a warm process: the first request of a process takes longer",
        "expect the longer one after every start; cold_ttft_s in the JSON",
        _cold,
    ),
)
