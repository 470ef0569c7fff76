"""Rows beside rows: without the host, and what was tested."""

from typing import Any

import pytest

from bitbench.explain.counterfactual import without_host
from bitbench.explain.experiments import Experiment, experiments
from bitbench.results.record import Record
from bitbench.results.summary import summarize
from tests.factories import explained_h200, processes, profile, record

GRAPHED = {"where": {"engine": "graphed"}}


def _eager(tpot: float = 0.015, **fields: Any) -> list[Record]:
    return processes("fp16", [tpot] * 5, **{"profiles": (profile(),), **fields})


def test_a_measured_row_without_the_host_is_taken_before_an_estimate() -> None:
    rows = summarize([*_eager(), *processes("fp16", [0.003] * 5, **GRAPHED)])
    (found,) = without_host(rows[0], rows)
    assert (found.engine, found.tokens_per_s, found.speedup) == ("graphed", pytest.approx(1 / 0.003), pytest.approx(5))
    assert found.interval is not None


@pytest.mark.parametrize(
    "different",
    [
        {"checkpoint": "another"},
        {"where": {"engine": "graphed", "workload": "p40-n128"}},
        {"where": {"engine": "graphed", "model": "shape:other"}},
        {"where": {"engine": "graphed", "device": "cuda:1"}},
        {"where": {"engine": "vllm"}},
        {"batch_size": 8},
    ],
)
def test_a_row_that_differs_in_more_is_no_counterfactual(different: dict[str, Any]) -> None:
    rows = summarize([*_eager(), *processes("fp16", [0.003] * 5, **{**GRAPHED, **different})])
    (found,) = without_host(rows[0], rows)
    assert found.engine is None and found.tokens_per_s == pytest.approx(1 / 2.0e-3)


def test_why_the_other_engine_could_not_is_said_beside_the_estimate() -> None:
    failed = record("fp16", status="unsupported", reason="it waits", checkpoint="", **GRAPHED)
    rows = summarize([*_eager(batch_size=4), failed.model_copy(update={"batch_size": 4})])
    could_not, estimate = without_host(rows[0], rows)
    assert (could_not.engine, could_not.tokens_per_s, could_not.reason) == ("graphed", None, "unsupported: it waits")
    assert (estimate.engine, estimate.tokens_per_s) == (None, pytest.approx(4 / 2.0e-3))


def test_without_profile_and_other_rows_nothing_is_estimated() -> None:
    rows = summarize(_eager(profiles=()))
    assert without_host(rows[0], rows) == ()


def _only(records: list[Record]) -> Experiment:
    (found,) = experiments(summarize(records))
    return found


def test_the_outlier_question_has_a_price_for_each_wait() -> None:
    found = _only(explained_h200())
    assert found.varied == "outlier threshold"
    assert [line[0] for line in found.lines] == ["6", "0"]
    assert found.finding.startswith(
        "asking for outliers costs 23.0 ms a step, 38 % of it: 136 us for each of 169 waits"
    )


def test_without_profiles_the_outlier_question_still_has_a_price() -> None:
    found = _only([*processes("bnb-int8", [0.06] * 5, bits=8), *processes("bnb-int8-t0", [0.04] * 5, bits=8)])
    assert "GPU busy, %" not in found.head and "waits" not in found.head
    assert found.finding.startswith("asking for outliers costs 20.0 ms a step, 33 % of it; how many waits")
    same = _only([*processes("bnb-int8", [0.04] * 5, bits=8), *processes("bnb-int8-t0", [0.04] * 5, bits=8)])
    assert "no more than the noise" in same.finding


def _batch(size: int, tpot: float) -> list[Record]:
    name = "p40-n10" + (f"-b{size}" if size > 1 else "")
    return _eager(tpot, batch_size=size, where={"workload": name})


def test_batches_show_whether_launches_are_shared() -> None:
    found = _only([*_batch(32, 0.018), *_batch(1, 0.015)])
    assert found.varied == "batch" and [line[0] for line in found.lines] == ["1", "32"]
    assert "takes 1.20x as long as one for 1" in found.finding
    assert "takes no longer (0.90x) than one for 1" in _only([*_batch(32, 0.0135), *_batch(1, 0.015)]).finding
    assert "idle time per token goes from 13.0 ms to 500 us" in found.finding
    assert "grows with the batch" in _only([*_batch(1, 0.015), *_batch(32, 0.4)]).finding
    busy = [*_batch(1, 0.0021), *_batch(8, 0.0023)]  # of 2 ms busy
    assert "it is the reading of weights that is shared" in _only(busy).finding


def _model(name: str, weights: int, tpot: float, busy_s: float) -> list[Record]:
    seen = (profile(busy_s=busy_s),)
    return _eager(tpot, weights=weights, checkpoint=name, profiles=seen, where={"model": f"shape:{name}"})


def test_sizes_show_the_hosts_share() -> None:
    sizes = [*_model("large", 15_000_000_000, 0.020, 0.016), *_model("small", 1_000_000_000, 0.015, 0.002)]
    found = _only(sizes)
    assert [line[0] for line in found.lines] == ["shape:small", "shape:large"]
    assert found.finding.startswith("15.00x the weights take 1.33x the time")
    assert "from 87 to 20 %: the host's work is much the same" in found.finding


def _context(prompt_len: int, depth: int, tpot: float, step: int = 1_000_000_000) -> list[Record]:
    name = f"p{prompt_len}-n10" + (f"@d{depth}" if depth else "")
    return _eager(tpot, step=step, where={"workload": name})


def test_contexts_show_whether_the_cache_is_waited_for() -> None:
    flat = _only([*_context(128, 0, 0.015), *_context(128, 4096, 0.015), *_context(32768, 0, 0.01501)])
    assert flat.varied == "context" and [line[0] for line in flat.lines] == ["128", "4,224", "32,768"]
    assert "1.00x as long, which these processes cannot tell from noise; the GPU idles for 87 %" in flat.finding
    grown = _only([*_context(128, 0, 0.015), *_context(128, 4096, 0.03, step=2_000_000_000)])
    assert "takes 2.00x as long, for 2.00x the bytes" in grown.finding


def test_rows_that_differ_in_two_things_are_not_compared() -> None:
    other = processes("fp16", [0.02] * 5, where={"model": "shape:other", "workload": "p40-n10-b8"}, batch_size=8)
    assert experiments(summarize([*_eager(), *other, *processes("nf4", [0.02] * 5, bits=4)])) == []
