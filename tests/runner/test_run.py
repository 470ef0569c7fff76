"""Rounds, the stopping rule, the budget, resuming, and determinism of the fake engine."""

import pytest

from bitbench.facts.workloads import parse_workload
from bitbench.results import store
from bitbench.results.summary import summarize
from bitbench.runner.listener import Silent
from bitbench.runner.plan import make_plan
from bitbench.runner.preparing import checkpoint_key
from bitbench.runner.run import Run
from bitbench.runner.schedule import CellState, first_state, judge
from tests.factories import HOT, record
from tests.runner.runs import collect, execute, fake_request, script


def test_processes_are_interleaved_and_prompts_dealt_out(tmp_path):
    request = fake_request("fp16 bnb-int8 bnb-nf4", processes=2, workload=parse_workload("starting-4x8"))
    loaded = execute(tmp_path / "r.jsonl", request)
    assert [r.cell.method for r in loaded.records] == ["fp16", "bnb-int8", "bnb-nf4"] * 2
    assert [r.process_index for r in loaded.records] == [0, 0, 0, 1, 1, 1]
    prompts = [s.prompt_index for r in loaded.records if r.cell.method == "fp16" for s in r.samples if not s.warmup]
    assert prompts == [0, 1, 2, 3]


def test_the_same_run_gives_the_same_numbers(tmp_path):
    first, second = (execute(tmp_path / name, fake_request()) for name in ("a.jsonl", "b.jsonl"))
    speeds = [[row.decode_tokens_per_s for row in summarize(x.records)] for x in (first, second)]
    assert speeds[0] == speeds[1]
    assert len(set(speeds[0])) == 2


def test_a_tight_cell_ends_by_precision_and_a_wide_one_gets_more_processes(tmp_path, monkeypatch):
    script(
        monkeypatch,
        fp16={"spread_between": 0.001, "spread_within": 0.001},
        bnb_nf4={"spread_between": 0.3, "spread_within": 0.001},
    )
    loaded = execute(tmp_path / "r.jsonl", fake_request(processes=None))
    endings = {e.cell.method: e for e in loaded.endings}
    assert endings["fp16"].ended_by == "precision"
    assert endings["fp16"].num_processes == 5
    assert endings["fp16"].reached_precision < 0.03
    assert endings["bnb-nf4"].ended_by == "processes"
    assert endings["bnb-nf4"].num_processes == 10
    assert endings["bnb-nf4"].reached_precision > 0.03


def test_more_prompts_where_the_spread_within_dominates(tmp_path, monkeypatch):
    script(monkeypatch, fp16={"spread_between": 0.0, "spread_within": 0.4})
    request = fake_request("fp16", processes=None, workload=parse_workload("starting-20x8"))
    loaded = execute(tmp_path / "r.jsonl", request)
    counts = [sum(not s.warmup for s in r.samples) for r in loaded.records]
    assert counts[:5] == [4] * 5
    assert counts[5] == 8


def test_the_budget_ends_a_run_and_cells_never_reached_are_skipped(tmp_path, monkeypatch):
    script(monkeypatch, **{"*": {"real_s_per_prompt": 0.4}})
    request = fake_request("fp16 bnb-int8 bnb-nf4", processes=5, budget_s=3.0)
    loaded = execute(tmp_path / "r.jsonl", request)
    assert {e.ended_by for e in loaded.endings} == {"budget"}
    skipped = [r for r in loaded.records if r.status == "skipped"]
    assert {r.cell.method for r in skipped} <= {"bnb-int8", "bnb-nf4"}
    assert skipped
    assert all(r.reason == "the budget ended first" for r in skipped)


def test_a_slow_row_leaves_the_others_their_part_of_the_budget(tmp_path, monkeypatch):
    script(monkeypatch, fp16={"real_s_per_prompt": 0.8})
    workload = parse_workload("starting-20x8")  # the first row alone would take 16 s
    request = fake_request("fp16 bnb-int8 bnb-nf4", processes=1, budget_s=12.0, workload=workload)
    loaded = execute(tmp_path / "r.jsonl", request)
    counts = {r.cell.method: sum(not s.warmup for s in r.samples) for r in loaded.records}
    assert {r.status for r in loaded.records} == {"ok"}
    assert 1 <= counts["fp16"] < 20 and counts["bnb-int8"] == counts["bnb-nf4"] == 20


def test_resume_goes_on_where_a_run_was_left(tmp_path):
    out = tmp_path / "r.jsonl"
    whole = execute(tmp_path / "whole.jsonl", fake_request(processes=3))
    execute(out, fake_request(processes=1))
    loaded = execute(out, fake_request(processes=3), store.read([out]).records)
    assert [r.process_index for r in loaded.records] == [0, 0, 1, 1, 2, 2]
    speeds = [[row.decode_tokens_per_s for row in summarize(x.records)] for x in (whole, loaded)]
    assert speeds[0] == speeds[1]


def test_resume_starts_no_process_that_the_budget_cannot_hold(tmp_path, monkeypatch):
    script(monkeypatch, **{"*": {"real_s_per_prompt": 0.05}})
    out = tmp_path / "r.jsonl"
    first = execute(out, fake_request("fp16", processes=1, budget_s=None))
    (took_s,) = (r.process_s for r in first.records)
    loaded = execute(out, fake_request("fp16", processes=2, budget_s=took_s / 2), first.records)
    assert len(loaded.records) == 1
    assert [e.ended_by for e in loaded.endings] == ["processes", "budget"]


def test_a_row_skipped_at_first_and_resumed_is_one_row(tmp_path, monkeypatch):
    script(monkeypatch, **{"*": {"real_s_per_prompt": 0.4}})
    out = tmp_path / "r.jsonl"
    first = execute(out, fake_request("fp16 bnb-int8 bnb-nf4", processes=5, budget_s=3.0))
    assert {r.status for r in first.records} == {"ok", "skipped"}
    script(monkeypatch)
    loaded = execute(out, fake_request("fp16 bnb-int8 bnb-nf4", processes=2), first.records)
    rows = summarize(loaded.records)
    assert [row.status for row in rows] == ["ok"] * 3


def test_records_of_another_machine_are_not_resumed(tmp_path):
    out = tmp_path / "r.jsonl"
    execute(out, fake_request("fp16", processes=1))
    other = [
        r.model_copy(update={"environment": r.environment.model_copy(update={"machine": "another"})})
        for r in store.read([out]).records
    ]
    run = Run(make_plan(fake_request("fp16", processes=1), collect("fake")), out, Silent())
    run.execute(other)
    assert len(store.read([out]).records) == 2


def test_a_folder_that_does_not_exist_is_told_before_anything_runs(tmp_path):
    with pytest.raises(store.StoreError, match="no folder"):
        execute(tmp_path / "missing" / "r.jsonl", fake_request())


def test_stored_methods_have_checkpoints_of_their_own_and_the_others_share_one():
    plan = make_plan(fake_request("fp16 awq-int4 bnb-nf4 rtn-int4 awq-int4:gemm rtn-int4:gemm"), collect("fake"))
    keys = [checkpoint_key(planned.cell) for planned in plan.cells]
    assert keys[0] == keys[2]
    assert keys[1] == keys[4]
    assert keys[3] == keys[5]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(("throttled", "processes"), [(0, 3), (1, 4), (2, 5), (5, 5)])
def test_processes_that_were_throttled_throughout_are_made_up_for(throttled, processes):
    request = fake_request("fp16", processes=3)
    state = first_state(make_plan(request, collect("fake")).cells[0], request)
    while state.ended_by is None:
        index = state.next_index
        state.records.append(record(tpots=[0.01] * 3, process=index, power=HOT if index < throttled else ()))
        judge(state, request)
    assert len(state.records) == processes


def test_a_later_process_is_expected_to_take_what_the_last_one_did_without_its_gate():
    planned = make_plan(fake_request("fp16"), collect("fake")).cells[0]
    assert CellState(planned, 1).expected_s == 0
    first, later = record(process_s=20.0, gate_s=6.0), record(process_s=13.0, gate_s=None)
    assert CellState(planned, 1, [first]).expected_s == 14.0
    assert CellState(planned, 1, [first, later]).expected_s == 13.0
