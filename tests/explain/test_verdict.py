"""Each verdict is reached, from numbers and not from names."""

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbench.explain import thresholds
from bitbench.explain.cause import KINDS, MEANINGS, Kind
from bitbench.explain.rows import explain
from bitbench.explain.verdict import Verdict, judge
from bitbench.facts.profile import RoleTime
from bitbench.results.record import Record
from bitbench.results.summary import CellSummary, summarize
from tests.factories import explained_h200, processes, profile

BIG = (RoleTime(role="projections", busy_s=9e-3, num_kernels=100.0, bytes_read=8_000_000_000),)
HALVES = (
    RoleTime(role="projections", busy_s=2.2e-3, num_kernels=100.0, bytes_read=8_000_000_000),
    RoleTime(role="elementwise", busy_s=2.2e-3, num_kernels=2200.0),
)
CPU = {"where": {"device": "cpu"}}
MANY = {"stream": 168.0}
GRAPH = {"itl_clock": "device", "node_gap_s": 0.9e-6, "where": {"engine": "graphed"}}


def _records(tpot: float, method: str = "fp16", rows: dict[str, Any] | None = None, **seen: Any) -> list[Record]:
    profiles = (profile(**seen), profile("prefill"))
    return processes(method, [tpot] * 5, **{"profiles": profiles, "matmul_flops_per_s": 7e14, **(rows or {})})


def _row(records: list[Record]) -> CellSummary:
    return summarize(records)[0]


def _verdict(tpot: float, rows: dict[str, Any] | None = None, **seen: Any) -> Verdict:
    found = judge(_row(_records(tpot, rows=rows, **seen)))
    assert found is not None
    return found


CASES: dict[str, tuple[Kind, float, dict[str, Any], dict[str, Any]]] = {
    "eager, GPU idle": ("launch_bound", 0.015, {}, {}),
    "waits in each layer": ("sync_bound", 0.060, {}, {"syncs": MANY}),
    "a wait or two a step is no cause": ("launch_bound", 0.060, {}, {"syncs": {"stream": 2.0}}),
    "graph, mostly gaps": ("launch_bound", 0.003, GRAPH, {"busy_s": 1.0e-3}),
    "graph, small kernels": ("small_kernel_bound", 0.0029, GRAPH, {}),
    "large slow kernels": ("below_bandwidth", 0.010, {}, {"busy_s": 9e-3, "roles": BIG}),
    "near the bandwidth": ("bandwidth_bound", 0.00040, {}, {"busy_s": 0.39e-3}),
    "near the arithmetic": ("compute_bound", 0.010, {}, {"busy_s": 9e-3, "roles": BIG, "flops": 4_000_000_000_000}),
    "nothing takes half": ("mixed", 0.006, {}, {"busy_s": 4.4e-3, "roles": HALVES}),
    "on a CPU": ("cpu_bound", 0.02, {"bandwidth": 2e11, **CPU}, {"source": "operators", "busy_s": 0.015}),
    "on a CPU, at its bandwidth": ("bandwidth_bound", 0.02, {"bandwidth": 6e10, **CPU}, {"source": "operators"}),
    "busy for longer than the step": ("small_kernel_bound", 0.0015, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_verdict_is_reached(case: str) -> None:
    kind, tpot, rows, seen = CASES[case]
    found = _verdict(tpot, rows, **seen)
    assert found.kind == kind
    assert found.sentence.endswith(".") and found.evidence and found.advice


def test_every_kind_has_a_case_and_a_meaning() -> None:
    assert {kind for kind, *_ in CASES.values()} == set(KINDS) == set(MEANINGS) == set(get_args(Kind))


def test_evidence_carries_the_numbers() -> None:
    found = _verdict(0.015)
    assert found.evidence == (
        "reading 1.00 GB at 4.00 TB/s (measured) takes 250 us, 1.7 % of a step",
        "kernels ran for 2.00 ms of 15.0 ms (13 %)",
        "1,000 kernels, 13.0 us without one running for each: a bare launch costs 1.50 us or more, the rest is the "
        "software around it",
    )
    assert "87 %" in found.sentence
    small = _verdict(0.0029, GRAPH)
    assert any("168 kernels of 4.26 MB and 5.95 us, 18 % of the bandwidth" in line for line in small.evidence)
    assert any("1,000 gaps of 0.900 us" in line for line in small.evidence)


def test_a_graph_that_waits_inside_is_told_apart_from_a_host_that_does() -> None:
    inside, outside = _verdict(0.003, GRAPH, busy_s=1.0e-3), _verdict(0.015)
    assert "inside the graph" in inside.sentence and "inside the graph" not in outside.sentence
    assert "--engine graphed" in outside.advice and "--engine" not in inside.advice


def test_small_kernels_outside_a_graph_are_told_with_the_idle_time_between_them() -> None:
    outside = _verdict(0.0029, busy_s=2.0e-3, num_kernels=2000.0, roles=())
    inside = _verdict(0.0029, GRAPH)
    assert outside.kind == inside.kind == "small_kernel_bound"
    assert "for 31 % of each step it does nothing" in outside.sentence and "does nothing" not in inside.sentence


def test_the_cause_of_slow_large_kernels_is_not_guessed() -> None:
    found = _verdict(0.010, busy_s=9e-3, roles=BIG)
    assert "cannot be told" in found.sentence and "counters" in found.advice


def test_a_twin_without_waits_decides_whether_they_are_the_cause() -> None:
    waiting = _records(0.060, "asks", {"kernel": "k"}, syncs=MANY)
    for tpot, kind, said in ((0.038, "sync_bound", "1.58x as fast"), (0.059, "launch_bound", "is no faster (1.02x)")):
        rows = summarize([*waiting, *_records(tpot, "asks-not", {"kernel": "k"})])
        found = judge(rows[0], "decode", rows)
        assert found is not None and found.kind == kind
        assert any("asks-not" in line and said in line for line in found.evidence)
        assert ("asks-not" in found.advice) == (kind == "sync_bound")
    other_kernel = summarize([*waiting, *_records(0.059, "asks-not", {"kernel": "other"})])
    untested = judge(other_kernel[0], "decode", other_kernel)
    assert untested is not None and untested.kind == "sync_bound"
    assert any("not known" in line for line in untested.evidence)


def test_prefill_has_a_verdict_of_its_own() -> None:
    long = profile("prefill", busy_s=18e-3, flops=9_000_000_000_000, roles=BIG)
    row = _row(_records(0.015, rows={"profiles": (profile(), long)}))
    decode, prefill = judge(row), judge(row, "prefill")
    assert decode is not None and prefill is not None
    assert (decode.kind, prefill.kind) == ("launch_bound", "compute_bound")
    assert "prefill" in prefill.sentence and any("TFLOP/s" in line for line in prefill.evidence)


@pytest.mark.parametrize("seen", [(), (profile(source="none", busy_s=None, roles=(), note="not permitted"),)])
def test_without_a_profile_only_what_the_bytes_explain_is_said(seen: tuple[Any, ...]) -> None:
    assert judge(_row(_records(0.015, rows={"profiles": seen}))) is None
    near = judge(_row(_records(0.0004, rows={"profiles": seen})))
    assert near is not None and near.kind == "bandwidth_bound"
    cpu = judge(_row(_records(0.02, rows={"profiles": seen, "where": {"device": "cpu"}, "bandwidth": 2e11})))
    assert cpu is not None and cpu.kind == "cpu_bound" and "--profile" in cpu.advice


def test_a_failed_row_and_one_token_have_no_verdict() -> None:
    rows = summarize(explained_h200())
    failed = next(r for r in rows if r.status != "ok")
    assert judge(failed, "decode", rows) is None and judge(failed, "prefill", rows) is None
    assert judge(replace(rows[0], tpot_s=None), "decode", rows) is None


def test_a_profile_that_knows_no_roles_goes_by_the_mean_kernel() -> None:
    assert _verdict(0.0029, busy_s=2.0e-3, num_kernels=2000.0, roles=()).kind == "small_kernel_bound"
    assert _verdict(0.0029, busy_s=2.0e-3, num_kernels=20.0, roles=()).kind == "below_bandwidth"


KNOWN = st.sampled_from([case for case in CASES if "CPU" not in case and "graph" not in case])


@given(one=KNOWN, two=KNOWN)
def test_swapping_the_numbers_of_two_rows_swaps_their_verdicts(one: str, two: str) -> None:
    def kinds(first: str, second: str) -> list[Kind | None]:
        made = [
            _records(CASES[c][1], name, {"kernel": name}, **CASES[c][3]) for c, name in ((first, "a"), (second, "b"))
        ]
        return [e.decode.kind if e.decode else None for e in explain(summarize([*made[0], *made[1]]))]

    assert kinds(one, two) == kinds(two, one)[::-1] == [CASES[one][0], CASES[two][0]]


def test_names_change_nothing() -> None:
    def renamed(record: Record) -> Record:
        return record.model_copy(
            update={"cell": record.cell.model_copy(update={"method": f"m-{record.cell.method[::-1]}"})}
        )

    def kinds(records: list[Record]) -> list[tuple[Kind | None, Kind | None]]:
        found = explain(summarize(records))
        return [(e.decode and e.decode.kind, e.prefill and e.prefill.kind) for e in found]

    assert kinds([renamed(r) for r in explained_h200()]) == kinds(explained_h200())


@given(st.floats(1e11, 1e13))
def test_a_perfect_kernel_of_the_limit_size_just_reaches_the_share(bandwidth: float) -> None:
    size = thresholds.large_kernel_bytes(bandwidth)
    perfect_s = thresholds.MEMORY_LATENCY_S + size / bandwidth
    assert size / perfect_s / bandwidth == pytest.approx(thresholds.BANDWIDTH_SHARE)
    assert perfect_s == pytest.approx(thresholds.LARGE_KERNEL_S)
