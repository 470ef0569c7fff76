"""What --resume leaves out, and what a worker's end leaves in the record."""

import pytest

from bitbench.facts.corpora import built_in
from bitbench.results import store
from bitbench.results.machine import collect
from bitbench.runner import quality_run
from bitbench.runner.listener import Silent
from bitbench.runner.plan import make_plan
from bitbench.runner.quality_run import QualityRun
from bitbench.runner.references import Comparison
from tests.factories import quality, quality_record
from tests.runner.runs import fake_request, script


def of_text(digest: str):
    """A record whose passes on a named text are of that text."""
    found = quality(0.1)
    passes = tuple(
        p if p.corpus == "continuations" else p.model_copy(update={"corpus_hash": digest}) for p in found.passes
    )
    return quality_record("fp16", quality=found.model_copy(update={"passes": passes}))


def test_a_record_of_another_text_is_no_reason_to_leave_a_cell_out(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("words " * 200)
    assert quality_run._has_read(of_text(built_in().digest), Comparison())
    assert not quality_run._has_read(of_text(built_in().digest), Comparison(text=mine))
    assert not quality_run._has_read(of_text("0"), Comparison())
    only = quality(0.1)
    without = quality_record("fp16", quality=only.model_copy(update={"passes": only.passes[:1]}))
    assert quality_run._has_read(without, Comparison(text=mine)), "a model without a tokenizer reads no text"


def execute(out, methods, before=()):
    run = QualityRun(make_plan(fake_request(methods), collect("fake")), out, Silent())
    run.execute(before)
    return store.read([out]).qualities


def test_resume_compares_what_is_missing_and_what_failed(tmp_path, monkeypatch):
    out = tmp_path / "q.jsonl"
    script(monkeypatch, bnb_nf4={"fault": "error"})
    first = execute(out, "fp16 bnb-nf4")
    assert [(q.subject.method, q.status) for q in first] == [("fp16", "ok"), ("bnb-nf4", "runtime_error")]
    assert first[1].quality is None and first[0].quality.passes[0].num_positions == 192
    script(monkeypatch)
    again = execute(out, "fp16 bnb-nf4 bnb-int8", first)
    assert [(q.subject.method, q.status) for q in again[2:]] == [("bnb-nf4", "ok"), ("bnb-int8", "ok")]


@pytest.mark.parametrize("fault", ["segv", "allocator", "load_error", "unsupported"])
def test_a_fault_is_a_record_and_the_next_cell_is_compared(tmp_path, monkeypatch, fault):
    script(monkeypatch, fp16={"fault": fault}, bnb_nf4={})
    found = execute(tmp_path / "q.jsonl", "bnb-int8 fp16 bnb-nf4")
    status = {"segv": "runtime_error", "allocator": "out_of_memory"}.get(fault, fault)
    statuses = {q.subject.method: q.status for q in found}
    assert statuses["fp16"] == status and found[-1].subject.method == "bnb-nf4"
