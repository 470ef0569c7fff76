"""What a step's time is made of: the bar and the account of a graphed row."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbench.explain.account import account, gap_to_ceiling
from bitbench.explain.counterfactual import without_host
from bitbench.explain.step import Step, bar, step_of
from bitbench.facts.samples import PowerSample
from bitbench.reports.explanation import lengths
from bitbench.results.summary import CellSummary, summarize
from tests.factories import processes, profile

TIMES = st.floats(1e-6, 10.0)
MAYBE = st.none() | st.floats(0.0, 10.0)


def _graphed(tpot: float = 0.00289, **seen: Any) -> CellSummary:
    rows = {"itl_clock": "device", "node_gap_s": 0.9e-6, "weights": 988_000_000, "where": {"engine": "graphed"}}
    return summarize(processes("fp16", [tpot] * 5, profiles=(profile(**seen),), **rows))[0]


@given(
    time_s=TIMES,
    busy_s=MAYBE,
    gap_s=st.none() | st.floats(0.0, 1e-3),
    num_bytes=st.none() | st.integers(0, 10**13),
    flops=st.none() | st.integers(0, 10**15),
    on_cpu=st.booleans(),
    width=st.integers(5, 200),
)
def test_the_parts_of_a_bar_are_the_step_whatever_is_known(
    time_s: float,
    busy_s: float | None,
    gap_s: float | None,
    num_bytes: int | None,
    flops: int | None,
    on_cpu: bool,
    width: int,
) -> None:
    seen = None if busy_s is None else profile(busy_s=busy_s)
    step = Step("decode", time_s, on_cpu, num_bytes, 4e12, flops, 7e14, seen, gap_s)
    parts = bar(step)
    assert sum(part.seconds for part in parts) == pytest.approx(time_s)
    assert all(part.seconds >= 0 for part in parts)
    drawn = lengths(parts, width)
    assert sum(drawn) == width
    assert all((length > 0) == (part.seconds > 0) for part, length in zip(parts, drawn, strict=True))


def test_a_bar_by_hand() -> None:
    step = step_of(_graphed(), "decode")
    assert step is not None
    found = {part.name: part.seconds for part in bar(step)}
    assert found["ceiling"] == pytest.approx(988e6 / 4e12)
    assert found["rest of GPU busy"] == pytest.approx(2.0e-3 - 988e6 / 4e12)
    assert found["gaps between kernels"] == pytest.approx(0.89e-3)  # as much as the step leaves of 0.9 ms
    assert found["GPU idle"] == 0.0


def test_time_that_a_slowed_device_took_longer_is_not_called_idle() -> None:
    hot = (PowerSample(at_s=99.0, throttle_reasons=("SwPowerCap",)),)
    rows = processes("fp16", [0.00289] * 3, profiles=(profile(),), weights=988_000_000, power=hot)
    (row,) = summarize(rows)
    step = step_of(row, "decode")
    assert step is not None and step.slowed
    assert "GPU idle" not in {part.name for part in bar(step)}
    assert "GPU idle, or slowed down" in {part.name for part in bar(step)}
    assert without_host(row, [row]) == ()
    clean = summarize(processes("fp16", [0.00289] * 3, profiles=(profile(),), weights=988_000_000))
    assert [c.engine for c in without_host(clean[0], clean)] == [None]


def test_the_account_of_a_graphed_row() -> None:
    found = account(_graphed())
    assert found is not None and found.holds
    assert found.sum_s == pytest.approx(2.0e-3 + 1000 * 0.9e-6)
    assert found.residual_s == pytest.approx(-0.01e-3)
    assert found.residual == pytest.approx(-0.01 / 2.89)
    off = account(_graphed(tpot=0.0035))
    assert off is not None and not off.holds


def test_only_a_row_that_the_device_repeats_has_an_account() -> None:
    eager = summarize(processes("fp16", [0.015] * 5, profiles=(profile(),), node_gap_s=0.9e-6))[0]
    assert account(eager) is None and gap_to_ceiling(eager) == ()
    assert account(_graphed(source="none", busy_s=None, roles=())) is None


def test_the_gap_to_the_ceiling_is_itemised_without_remainder() -> None:
    row = _graphed()
    items = {item.name: item for item in gap_to_ceiling(row)}
    assert row.tpot_s is not None and row.bytes_per_step is not None
    assert sum(item.seconds for item in items.values()) == pytest.approx(row.tpot_s - row.bytes_per_step / 4e12)
    assert items["projections"].seconds == pytest.approx(1.0e-3 - 716e6 / 4e12)
    assert items["elementwise"].seconds == pytest.approx(0.6e-3) and items["elementwise"].bytes_s is None
    assert items["gaps between kernels"].seconds == pytest.approx(0.9e-3)
    assert abs(items["rest"].seconds) < 0.02e-3


def test_a_prefill_is_not_repeated_from_the_graph() -> None:
    rows = {"itl_clock": "device", "node_gap_s": 0.9e-6}
    row = summarize(processes("fp16", [0.003] * 5, profiles=(profile("prefill"),), **rows))[0]
    step = step_of(row, "prefill")
    assert step is not None and step.gaps_s is None and step.time_s == row.ttft_s
