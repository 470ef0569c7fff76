"""What power samples say about a window of time. Pure functions; times are seconds on CLOCK_MONOTONIC."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from bitbench.facts.samples import PowerSample

MIN_WINDOW_S = 2.0
"""NVML's energy counter moves every 20 to 100 ms: over 2 s that is 5% at most at either end."""


def energy_between(samples: Sequence[PowerSample], start_s: float, end_s: float) -> float | None:
    """Joules used from `start_s` to `end_s`, the counter interpolated at both ends.

    None where the window is shorter than MIN_WINDOW_S, the counter is unknown or ran backwards (the driver was
    reloaded), or the samples do not reach from before the window to after it. `samples` are in order of time.
    """
    if end_s - start_s < MIN_WINDOW_S:
        return None
    points = [(sample.at_s, sample.energy_j) for sample in samples if sample.energy_j is not None]
    start_j, end_j = _counter_at(points, start_s), _counter_at(points, end_s)
    if start_j is None or end_j is None or _runs_backwards(points, start_s, end_s):
        return None
    return end_j - start_j


def throttled_between(samples: Sequence[PowerSample], start_s: float, end_s: float) -> tuple[str, ...]:
    """Names of the throttle reasons seen in a window, sorted.

    A window that falls between two samples has the reasons of its neighbours: throttling lasts longer than a period.
    """
    seen = [sample for sample in samples if start_s <= sample.at_s <= end_s]
    if not seen:
        seen = [sample for sample in samples if sample.at_s < start_s][-1:]
        seen += [sample for sample in samples if sample.at_s > end_s][:1]
    return tuple(sorted({name for sample in seen for name in sample.throttle_reasons}))


def _counter_at(points: Sequence[tuple[float, float]], at_s: float) -> float | None:
    """The counter at a moment between two samples; None outside them."""
    after = bisect_left(points, at_s, key=lambda point: point[0])
    if after == len(points):
        return None
    after_s, after_j = points[after]
    if after_s == at_s:
        return after_j
    if after == 0:
        return None
    before_s, before_j = points[after - 1]
    return before_j + (after_j - before_j) * (at_s - before_s) / (after_s - before_s)


def _runs_backwards(points: Sequence[tuple[float, float]], start_s: float, end_s: float) -> bool:
    first = max(bisect_left(points, start_s, key=lambda point: point[0]) - 1, 0)
    last = bisect_left(points, end_s, key=lambda point: point[0])
    counters = [joules for _, joules in points[first : last + 1]]
    return any(later < earlier for earlier, later in pairwise(counters))
