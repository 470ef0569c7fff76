"""How two rows compare: a ratio of speeds, its interval, and the verdict, which may be AMBIGUOUS."""

import statistics
from collections.abc import Sequence
from typing import Literal

from bitbench.results.stats import Interval, ratio_interval

Verdict = Literal["faster", "slower", "ambiguous"]

NOISE_FLOOR = 0.01
"""Differences below 1% are noise whatever the interval says (criterion.rs's default noise threshold)."""

UNREPEATED_RATIO = 1.6
"""Without a second process on both sides only a ratio beyond this is a difference: two processes of one vLLM cell
differed by 60% on one machine, each tight in itself (design, "A process is one sample").
"""


def speedup_over(baseline_tpots_s: Sequence[float], tpots_s: Sequence[float]) -> tuple[float | None, Interval | None]:
    """Speed-up by decode (per-process median TPOTs, seconds) over a baseline, and its interval; None where unknown."""
    if not baseline_tpots_s or not tpots_s:
        return None, None
    ratio = statistics.median(baseline_tpots_s) / statistics.median(tpots_s)
    return ratio, ratio_interval(baseline_tpots_s, tpots_s)


def verdict(speedup: float, interval: Interval | None) -> Verdict:
    """`ambiguous` where the interval holds 1, the difference is below the noise floor, or nothing was repeated."""
    low, high = 1 / (1 + NOISE_FLOOR), 1 + NOISE_FLOOR
    if interval is None:
        low, high = 1 / UNREPEATED_RATIO, UNREPEATED_RATIO
    if low <= speedup <= high or (interval is not None and interval.contains(1.0)):
        return "ambiguous"
    return "faster" if speedup > 1 else "slower"
