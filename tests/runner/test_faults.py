"""A process that dies, hangs or runs out of memory is a row, and the next cell runs. Real child processes."""

import pytest

from bitbench.results.summary import summarize
from tests.runner.runs import execute, fake_request, script


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("segv", "runtime_error", "died of SIGSEGV"),
        ("kill", "runtime_error", "died of SIGKILL"),
        ("memory", "out_of_memory", "host memory was not enough"),
        ("allocator", "out_of_memory", "host memory was not enough"),
        ("error", "runtime_error", "RuntimeError: scripted: the kernel failed"),
    ],
)
@pytest.mark.parametrize("when", ["load", "generate"])
def test_a_fault_is_a_row_and_the_next_cell_runs(tmp_path, monkeypatch, fault, status, reason, when):
    script(monkeypatch, fp16={"fault": fault, "when": when})
    loaded = execute(tmp_path / "r.jsonl", fake_request())
    rows = {row.method: row for row in summarize(loaded.records, loaded.endings)}
    assert rows["fp16"].status == status
    assert reason in rows["fp16"].reason
    assert rows["fp16"].decode_tokens_per_s is None
    assert rows["bnb-nf4"].status == "ok"
    assert rows["bnb-nf4"].num_processes == 2
    assert [r.cell.method for r in loaded.records] == ["fp16", "bnb-nf4", "bnb-nf4"]


def test_a_worker_that_hangs_is_ended(tmp_path, monkeypatch):
    script(monkeypatch, fp16={"fault": "hang"})
    loaded = execute(tmp_path / "r.jsonl", fake_request(silence_s=2.0))
    assert [r.status for r in loaded.records] == ["timeout", "ok", "ok"]
    assert "said nothing for 2 s" in loaded.records[0].reason


@pytest.mark.parametrize(("fault", "status"), [("load_error", "load_error"), ("unsupported", "unsupported")])
def test_a_cell_that_cannot_run_is_a_row(tmp_path, monkeypatch, fault, status):
    script(monkeypatch, fp16={"fault": fault})
    loaded = execute(tmp_path / "r.jsonl", fake_request())
    assert loaded.records[0].status == status
    assert [r.status for r in loaded.records[1:]] == ["ok", "ok"]


def test_wrong_tokens_carry_no_speed(tmp_path, monkeypatch):
    script(monkeypatch, fp16={"cheat": "stale"})
    loaded = execute(tmp_path / "r.jsonl", fake_request())
    assert loaded.records[0].status == "incorrect"
    assert not any(not s.warmup for s in loaded.records[0].samples)


def test_an_engine_that_skips_the_work_beats_the_ceiling_and_is_incorrect(tmp_path, monkeypatch):
    script(monkeypatch, bnb_nf4={"cheat": "skip"})
    loaded = execute(tmp_path / "r.jsonl", fake_request())
    rows = {row.method: row for row in summarize(loaded.records, loaded.endings)}
    assert rows["fp16"].status == "ok"
    assert rows["bnb-nf4"].status == "incorrect"
    assert "more than" in rows["bnb-nf4"].reason
    assert rows["bnb-nf4"].decode_tokens_per_s is None


def test_work_left_on_another_stream_gains_nothing(tmp_path, monkeypatch):
    script(monkeypatch, fp16={"cheat": "async", "spread_between": 0, "spread_within": 0})
    cheating = execute(tmp_path / "a.jsonl", fake_request("fp16"))
    script(monkeypatch, fp16={"spread_between": 0, "spread_within": 0})
    honest = execute(tmp_path / "b.jsonl", fake_request("fp16"))
    fast, fair = (summarize(x.records)[0].decode_tokens_per_s for x in (cheating, honest))
    assert fast <= fair
