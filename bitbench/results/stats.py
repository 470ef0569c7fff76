"""Statistics on read: intervals between processes, spreads within and between them. Times in seconds, spreads as
fractions.

A process is one sample (design, measuring rule 2), so every interval here is over per-process medians.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bitbench.results.student_t import t_quantile

IntervalKind = Literal["t95", "range"]

MIN_PROCESSES_FOR_T = 5
"""Below five processes the range is given and labelled so (design, "interval")."""

OUTLIER_MADS = 14.826
"""hyperfine's rule: ten standard deviations, each 1.4826 times the median absolute deviation (its
outlier_detection.rs).
"""

_VARIANCE_OF_MEDIAN = math.pi / 2
"""The median of n normal values varies pi/2 times as much as their mean (asymptotically)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """`t95`: 95% confidence interval between processes. `range`: the least and greatest process. Same unit as the
    data.
    """

    low: float
    high: float
    kind: IntervalKind

    def inverse(self, numerator: float = 1.0) -> "Interval":
        """The interval of numerator / x: of a rate from that of a time."""
        return Interval(numerator / self.high, numerator / self.low, self.kind)

    def contains(self, value: float) -> bool:
        """Whether `value` lies in it, ends included."""
        return self.low <= value <= self.high


def interval(process_medians: Sequence[float]) -> Interval | None:
    """Between processes: t on logs from five of them, else the range; None for fewer than two (one process has no
    spread).

    The t interval is that of the geometric mean; it is widened where needed to hold the median, which is what is
    printed.
    """
    if len(process_medians) < 2:
        return None
    if len(process_medians) < MIN_PROCESSES_FOR_T:
        return Interval(min(process_medians), max(process_medians), "range")
    logs = [math.log(x) for x in process_medians]
    half = t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return _around(statistics.fmean(logs), half, statistics.median(process_medians))


def _around(centre_log: float, half: float, printed: float) -> Interval:
    return Interval(min(math.exp(centre_log - half), printed), max(math.exp(centre_log + half), printed), "t95")


def relative_half_width(of: Interval) -> float:
    """t95: exp(half width of the logs) - 1. Range: half of it over its middle."""
    if of.kind == "t95":
        return math.exp((math.log(of.high) - math.log(of.low)) / 2) - 1
    return (of.high - of.low) / (of.high + of.low)


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float]) -> Interval | None:
    """Of median(numerator) / median(denominator), each over processes.

    From five processes a side: Welch's t on logs (Satterthwaite's degrees of freedom), 95%. Else, from two a side,
    the range of all quotients, labelled so. Else None.
    """
    if min(len(numerator), len(denominator)) < 2:
        return None
    if min(len(numerator), len(denominator)) < MIN_PROCESSES_FOR_T:
        return Interval(min(numerator) / max(denominator), max(numerator) / min(denominator), "range")
    sides = [[math.log(x) for x in side] for side in (numerator, denominator)]
    errors = [statistics.variance(side) / len(side) for side in sides]
    centre = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
    printed = statistics.median(numerator) / statistics.median(denominator)
    total = sum(errors)
    # An underflowing square would leave no degrees of freedom: such spreads are nil.
    welch = sum(error**2 / (len(side) - 1) for error, side in zip(errors, sides, strict=True))
    half = t_quantile(total**2 / welch) * math.sqrt(total) if welch > 0 else 0.0
    return _around(centre, half, printed)


def spread_within(process_tpots: Sequence[Sequence[float]]) -> float | None:
    """Median over processes of stdev / mean of TPOT over the prompts of a process; None where none has two prompts."""
    spreads = [statistics.stdev(t) / statistics.fmean(t) for t in process_tpots if len(t) > 1]
    return statistics.median(spreads) if spreads else None


def spread_between(process_medians: Sequence[float]) -> float | None:
    """Standard deviation of the logs of the per-process medians; None for fewer than two processes."""
    if len(process_medians) < 2:
        return None
    return statistics.stdev(math.log(x) for x in process_medians)


def dominant_spread(process_tpots: Sequence[Sequence[float]]) -> Literal["within", "between"]:
    """Which spread makes the interval wide: `within` asks for more prompts a process, `between` for more processes.

    The observed variance of the log medians is the true variance between processes plus that of each median's own
    estimate, pi/2 * s_w^2 / num_prompts. `within` where the second is the larger part. Where they cannot be told
    apart (fewer than two processes, or single prompts) the answer is `between`: a further process brings prompts of
    its own, so it lowers both.
    """
    logs = [[math.log(x) for x in tpots] for tpots in process_tpots if tpots]
    estimates = [_VARIANCE_OF_MEDIAN * statistics.variance(t) / len(t) for t in logs if len(t) > 1]
    if len(logs) < 2 or not estimates:
        return "between"
    observed = statistics.variance(statistics.median(t) for t in logs)
    own = statistics.fmean(estimates)
    return "within" if own > max(observed - own, 0.0) else "between"


def num_outliers(values: Sequence[float]) -> int:
    """How many lie further than OUTLIER_MADS median absolute deviations from the median. They are kept, and flagged."""
    if not values:
        return 0
    middle = statistics.median(values)
    mad = statistics.median(abs(x - middle) for x in values)
    return sum(abs(x - middle) > OUTLIER_MADS * mad for x in values) if mad > 0 else 0


def percentile(values: Sequence[float], fraction: float) -> float | None:
    """Linear interpolation between order statistics (numpy's default); None without values."""
    if not values:
        return None
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median_of_known(values: Iterable[float | None]) -> float | None:
    """Median of those that are not None; None where none is."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None
