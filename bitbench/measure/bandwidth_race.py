"""Several ways of doing the same work race; the fastest wins. Pure: the clock is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Run = Callable[[], object]

SCREENING_GROUPS = 3
FINALISTS = 2
MAX_PASSES = 2000  # in one group; a set that is read faster than 5 us a pass needs no longer groups


@dataclass(frozen=True, slots=True)
class Way:
    """One way of reading: `group(n)` gives what to call to read the working set n times."""

    name: str
    group: Callable[[int], Run]


@dataclass(frozen=True, slots=True)
class Rules:
    """A group lasts about `group_s`; a finalist runs `min_groups` of them and `min_s` in all.

    A way's figure is the group time at `quantile` of its groups, fastest first: 0.5 is the median.
    """

    group_s: float
    min_groups: int
    min_s: float
    quantile: float


@dataclass(frozen=True, slots=True)
class Winner:
    """The fastest way, its seconds per pass and the number of groups behind the figure."""

    name: str
    pass_s: float
    num_groups: int


@dataclass(slots=True)
class _Contender:
    way: Way
    run: Run
    num_passes: int
    pass_times_s: list[float] = field(default_factory=list)

    def figure_s(self, quantile: float) -> float:
        return sorted(self.pass_times_s)[int(quantile * len(self.pass_times_s))]


def race(ways: Sequence[Way], time_s: Callable[[Run], float], rules: Rules) -> Winner:
    """Screen all ways with a few groups each, then run the best two side by side under the rules.

    `time_s` runs something and gives its seconds. The rounds are interleaved, so that a disturbance meets all alike;
    calibration and screening warm up and do not count. Raises ValueError where there is no way.
    """
    if not ways:
        raise ValueError("no way of reading to race")
    contenders = [_calibrated(way, time_s, rules.group_s) for way in ways]
    for _ in range(SCREENING_GROUPS):
        _round(contenders, time_s)
    finalists = sorted(contenders, key=lambda contender: min(contender.pass_times_s))[:FINALISTS]
    for finalist in finalists:
        finalist.pass_times_s.clear()
    spent_s = 0.0
    while len(finalists[0].pass_times_s) < rules.min_groups or spent_s < rules.min_s * len(finalists):
        spent_s += _round(finalists, time_s)
    winner = min(finalists, key=lambda finalist: finalist.figure_s(rules.quantile))
    return Winner(winner.way.name, winner.figure_s(rules.quantile), len(winner.pass_times_s))


def _calibrated(way: Way, time_s: Callable[[Run], float], group_s: float) -> _Contender:
    """As many passes as last `group_s`. Twice: the first estimate is of a cold call."""
    num_passes = 1
    for _ in range(2):
        run = way.group(num_passes)
        run()
        pass_s = time_s(run) / num_passes
        num_passes = min(max(round(group_s / pass_s), 1), MAX_PASSES)
    return _Contender(way, way.group(num_passes), num_passes)


def _round(contenders: Sequence[_Contender], time_s: Callable[[Run], float]) -> float:
    """Time one group of each; the seconds of all together."""
    spent_s = 0.0
    for contender in contenders:
        group_s = time_s(contender.run)
        contender.pass_times_s.append(group_s / contender.num_passes)
        spent_s += group_s
    return spent_s
