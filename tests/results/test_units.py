import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbench.results import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.6123, "0.612"),
        (57.14, "57.1"),
        (367.8, "368"),
        (4049.2, "4,049"),
        (0.00123, "0.00123"),
    ],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert units.significant(value) == text


@given(st.floats(1e-6, 1e9))
def test_what_is_printed_is_within_half_a_percent(value: float) -> None:
    assert float(units.significant(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


def test_units_of_people() -> None:
    assert units.milliseconds(0.0152) == "15.2"
    assert units.gigabytes(988_000_000) == "0.988"
    assert units.memory(988_000_000) == "0.988 GB" and units.memory(13_400_000) == "13.4 MB"
    assert units.memory(None) == "unknown"
    assert units.bandwidth(4.31e12) == "4.31 TB/s" and units.bandwidth(18.2e9) == "18.2 GB/s"
    assert [units.percent(x) for x in (None, 0.013, 0.364, -0.05, 0.0996, 0.0)] == ["-", "1.3", "36", "-5.0", "10", "0"]
    assert units.ratio(0.287) == "0.29x" and units.ratio(None) == "-"


def test_durations_and_counts() -> None:
    assert [units.duration(x) for x in (1.2, 0.0175, 5.95e-6, 0.0)] == ["1.20 s", "17.5 ms", "5.95 us", "0 us"]
    assert [units.count(x) for x in (1006.4, 24.0, 1.5, 0.5)] == ["1,006", "24", "1.5", "0.5"]
    assert [units.per_step(x) for x in (1006.4, 0.125, 0.0)] == ["1,006", "1 in 8", "0"]
