import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbench.results.ceiling import CEILING_TOLERANCE, beats_ceiling, ceiling_tokens_per_s, mbu
from bitbench.results.summary import summarize
from tests.factories import ENVIRONMENT, processes, record

GB = 1_000_000_000


def test_the_arithmetic() -> None:
    assert ceiling_tokens_per_s(4, 4e12, GB) == pytest.approx(16_000)
    assert mbu(GB, 0.001, 4e12) == pytest.approx(0.25)


@given(st.integers(1, 64), st.floats(1e9, 1e13), st.integers(10**6, 10**11), st.floats(1e-5, 10))
def test_mbu_is_the_speed_over_the_ceiling(batch: int, bandwidth: float, step: int, tpot: float) -> None:
    speed = batch / tpot
    assert mbu(step, tpot, bandwidth) == pytest.approx(speed / ceiling_tokens_per_s(batch, bandwidth, step))


@pytest.mark.parametrize(
    ("part_of_ceiling", "cache", "expected"),
    [
        (0.9, 50_000_000, "no"),
        (1 + CEILING_TOLERANCE / 2, 50_000_000, "no"),
        (1.05, 50_000_000, "error"),
        (1.05, GB // 4, "cache"),
        (1.05, GB // 4 - 1, "error"),
        (1.05, None, "cache"),
    ],
)
def test_beating_it_is_an_error_only_where_no_cache_explains_it(
    part_of_ceiling: float, cache: int | None, expected: str
) -> None:
    tpot = GB / 4e12 / part_of_ceiling
    assert beats_ceiling(GB, tpot, 4e12, cache) == expected


def test_a_row_that_skips_the_work_has_no_speed() -> None:
    fake = processes("skips", [0.0001] * 5, bits=4)
    honest = processes("fp16", [0.0005] * 5)
    cheat, row = summarize([*fake, *honest])
    assert cheat.status == "incorrect"
    assert "10000.0 tok/s is more than the 4000.0 tok/s" in cheat.reason
    assert cheat.decode_tokens_per_s is cheat.tpot_s is cheat.ttft_s is cheat.mbu is cheat.speedup is None
    assert cheat.process_tpots_s == () and cheat.processes == ()
    assert cheat.ceiling_tokens_per_s == pytest.approx(4000)
    assert row.status == "ok" and row.mbu == pytest.approx(0.5)


def test_a_cheating_16_bit_row_is_no_baseline() -> None:
    _, row = summarize([*processes("skips", [0.0001] * 5), *processes("fp16", [0.0005] * 5)])
    assert row.baseline == "fp16"


def test_from_a_cache_it_is_a_flag() -> None:
    small = ENVIRONMENT.model_copy(update={"last_level_cache_bytes": 2 * GB})
    (row,) = summarize([record("fp16", [0.0001], environment=small)])
    assert row.status == "ok" and row.flags == ("beats_cache_ceiling",)
    assert row.mbu == pytest.approx(2.5)
