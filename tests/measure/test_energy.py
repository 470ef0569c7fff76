import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbench.facts.samples import PowerSample
from bitbench.measure.energy import energy_between, throttled_between


def counter(*points: tuple[float, float | None]) -> list[PowerSample]:
    return [PowerSample(at_s=at_s, energy_j=energy_j) for at_s, energy_j in points]


def test_interpolates_at_both_ends() -> None:
    samples = counter((0, 100), (1, 200), (2, 250), (3, 300), (4, 700))
    assert energy_between(samples, 0.5, 3.25) == pytest.approx(400 - 150)
    assert energy_between(samples, 1, 3) == 100
    assert energy_between(samples, 0, 4) == 600


@given(
    watts=st.floats(1, 1000),
    start=st.floats(0, 5),
    length=st.floats(2.001, 4.9),
    times=st.lists(st.floats(0.1, 9.9), max_size=30, unique=True),
)
def test_constant_power_gives_power_times_time(watts: float, start: float, length: float, times: list[float]) -> None:
    samples = counter(*((t, watts * t) for t in sorted([0.0, *times, 10.0])))
    assert energy_between(samples, start, start + length) == pytest.approx(watts * length, rel=1e-6)


def test_samples_without_a_counter_are_passed_over() -> None:
    samples = counter((0, 0), (1, None), (2, None), (4, 40))
    assert energy_between(samples, 1, 3) == pytest.approx(20)


@pytest.mark.parametrize(
    ("samples", "start_s", "end_s"),
    [
        (counter((0, 0), (10, 100)), 1, 2.9),  # too short for a counter that moves every 100 ms
        (counter((0, None), (10, None)), 1, 5),  # unknown
        (counter((2, 0), (10, 100)), 1, 5),  # does not reach back to the start
        (counter((0, 0), (4, 100)), 1, 5),  # ends before the window does
        (counter((0, 90), (3, 100), (4, 5), (10, 500)), 1, 8),  # the counter started again
        ([], 1, 5),
    ],
)
def test_unknown_rather_than_wrong(samples: list[PowerSample], start_s: float, end_s: float) -> None:
    assert energy_between(samples, start_s, end_s) is None


def throttled(*points: tuple[float, tuple[str, ...]]) -> list[PowerSample]:
    return [PowerSample(at_s=at_s, throttle_reasons=reasons) for at_s, reasons in points]


def test_reasons_within_the_window_only() -> None:
    samples = throttled((0, ("hw_slowdown",)), (1, ("sw_power_cap",)), (2, ()), (3, ("hw_power_brake", "sw_power_cap")))
    assert throttled_between(samples, 0.5, 2.5) == ("sw_power_cap",)
    assert throttled_between(samples, 1, 3) == ("hw_power_brake", "sw_power_cap")
    assert throttled_between(samples, 1.5, 2.5) == ()


def test_a_window_between_two_samples_has_the_neighbours_reasons() -> None:
    samples = throttled((0, ("hw_slowdown",)), (1, ()), (2, ("sw_power_cap",)), (3, ("hw_power_brake",)))
    assert throttled_between(samples, 1.2, 1.3) == ("sw_power_cap",)
    assert throttled_between(samples, 5, 6) == ("hw_power_brake",)
    assert throttled_between([], 0, 1) == ()
