import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from bitbench.results import stats
from bitbench.results.baseline import UNREPEATED_RATIO, verdict
from bitbench.results.stats import Interval

TIMES = st.floats(1e-6, 1e3)
KNOWN = [0.0171, 0.0176, 0.0169, 0.0181, 0.0174, 0.0178]
OTHER = [0.0231, 0.0229, 0.0240, 0.0226, 0.0233]


def test_five_processes_give_scipys_t_interval_of_the_logs() -> None:
    found = stats.interval(KNOWN)
    assert found is not None and found.kind == "t95"
    logs = np.log(KNOWN)
    low, high = reference.t.interval(0.95, len(logs) - 1, loc=logs.mean(), scale=reference.sem(logs))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-9)


def test_fewer_give_the_range_and_one_nothing() -> None:
    assert stats.interval([2.0, 1.0, 3.0, 2.5]) == Interval(1.0, 3.0, "range")
    assert stats.interval([2.0]) is None
    assert stats.interval([]) is None


@given(st.lists(TIMES, min_size=2, max_size=30))
def test_an_interval_holds_the_median_that_is_printed(times: list[float]) -> None:
    found = stats.interval(times)
    assert found is not None
    assert found.low <= statistics.median(times) * (1 + 1e-12)
    assert found.high >= statistics.median(times) * (1 - 1e-12)


@given(st.lists(TIMES, min_size=2, max_size=12), st.floats(0.01, 100))
def test_an_interval_scales_with_the_unit(times: list[float], factor: float) -> None:
    one, scaled = stats.interval(times), stats.interval([t * factor for t in times])
    assert one and scaled
    assert (scaled.low, scaled.high) == pytest.approx((one.low * factor, one.high * factor), rel=1e-6)


@pytest.mark.parametrize("num_processes", [5, 12])
def test_95_of_100_intervals_hold_the_true_value(num_processes: int) -> None:
    rng, repeats, true = random.Random(7), 4000, 0.02
    held = 0
    for _ in range(repeats):
        found = stats.interval([true * math.exp(rng.gauss(0, 0.1)) for _ in range(num_processes)])
        held += found is not None and found.contains(true)
    # Three standard deviations of a binomial.
    assert abs(held / repeats - 0.95) < 3 * math.sqrt(0.95 * 0.05 / repeats)


def test_half_widths() -> None:
    assert stats.relative_half_width(Interval(1 / 1.1, 1.1, "t95")) == pytest.approx(0.1)
    assert stats.relative_half_width(Interval(9.0, 11.0, "range")) == pytest.approx(0.1)


def test_a_rate_has_the_inverse_interval_of_its_time() -> None:
    assert Interval(0.1, 0.2, "t95").inverse(4) == Interval(20.0, 40.0, "t95")


def test_the_ratio_of_two_cells_is_scipys_welch_on_logs() -> None:
    found = stats.ratio_interval(KNOWN, OTHER)
    assert found is not None and found.kind == "t95"
    welch = reference.ttest_ind(np.log(KNOWN), np.log(OTHER), equal_var=False).confidence_interval(0.95)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((welch.low, welch.high), rel=1e-8)


def test_the_ratio_of_few_processes_is_a_range_and_of_one_unknown() -> None:
    assert stats.ratio_interval([2.0, 3.0], [1.0, 4.0]) == Interval(0.5, 3.0, "range")
    assert stats.ratio_interval([2.0], [1.0, 4.0]) is None


def test_equal_values_leave_no_width() -> None:
    found = stats.ratio_interval([2.0] * 5, [1.0] * 5)
    assert found is not None and (found.low, found.high) == pytest.approx((2.0, 2.0))


@given(st.lists(TIMES, min_size=2, max_size=9), st.lists(TIMES, min_size=2, max_size=9))
def test_turning_a_ratio_round_turns_its_interval_round(one: list[float], other: list[float]) -> None:
    there, back = stats.ratio_interval(one, other), stats.ratio_interval(other, one)
    assert there and back
    assert (1 / back.high, 1 / back.low) == pytest.approx((there.low, there.high), rel=1e-6)


def test_spreads_on_known_samples() -> None:
    steady, wild = [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]
    assert stats.spread_within([wild]) == pytest.approx(0.5)
    assert stats.spread_within([steady, wild, steady]) == 0.0
    assert stats.spread_within([[1.0], [2.0]]) is None
    assert stats.spread_between([1.0, math.e]) == pytest.approx(math.sqrt(0.5))
    assert stats.spread_between([1.0]) is None


def _simulated(within: float, between: float, seed: int) -> list[list[float]]:
    rng = random.Random(seed)
    centres = [math.exp(rng.gauss(0, between)) for _ in range(6)]
    return [[c * math.exp(rng.gauss(0, within)) for _ in range(5)] for c in centres]


def test_the_dominant_spread_is_found_in_simulated_cells() -> None:
    noisy_prompts = [stats.dominant_spread(_simulated(0.2, 0.01, seed)) for seed in range(200)]
    noisy_processes = [stats.dominant_spread(_simulated(0.01, 0.2, seed)) for seed in range(200)]
    # With six processes a variance is twice its expectation about every tenth time: such a cell gets processes instead.
    assert noisy_prompts.count("within") > 160
    assert noisy_processes.count("between") == 200


@pytest.mark.parametrize("tpots", [[], [[]], [[0.1, 0.2]], [[0.1], [0.2], [0.3]]])
def test_what_cannot_be_told_apart_asks_for_processes(tpots: list[list[float]]) -> None:
    assert stats.dominant_spread(tpots) == "between"


@given(st.lists(TIMES, min_size=1, max_size=40), st.floats(0, 1))
def test_percentiles_are_numpys(values: list[float], fraction: float) -> None:
    assert stats.percentile(values, fraction) == pytest.approx(np.quantile(values, fraction), rel=1e-9)


def test_outliers() -> None:
    even = [1.0, 1.01, 0.99, 1.02, 0.98]
    assert stats.num_outliers(even) == 0
    assert stats.num_outliers([*even, 3.0]) == 1
    assert stats.num_outliers([]) == stats.num_outliers([1.0, 1.0, 1.0, 9.0]) == 0
    assert stats.percentile([], 0.5) is None


@pytest.mark.parametrize(
    ("speedup", "interval", "expected"),
    [
        (1.4, Interval(1.3, 1.5, "t95"), "faster"),
        (0.7, Interval(0.6, 0.8, "range"), "slower"),
        (1.1, Interval(0.95, 1.25, "t95"), "ambiguous"),
        (1.005, Interval(1.004, 1.006, "t95"), "ambiguous"),
        (1.3, None, "ambiguous"),
        (0.7, None, "ambiguous"),
        (UNREPEATED_RATIO * 1.1, None, "faster"),
        (0.5, None, "slower"),
    ],
)
def test_verdicts(speedup: float, interval: Interval | None, expected: str) -> None:
    assert verdict(speedup, interval) == expected
