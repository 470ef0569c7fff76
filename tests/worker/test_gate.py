"""Right before fast, through the worker itself: an engine that cheats gets `incorrect` and no speed."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitbench import comparing, worker
from bitbench.engines.registry import ENGINES
from bitbench.facts.messages import (
    Answered,
    Compared,
    Gate,
    MeasureTask,
    Prepared,
    QualityTask,
    ReferenceStored,
    ReferenceTask,
    Sampled,
)
from bitbench.measure import numerics
from tests.engines import cheating
from tests.engines.tiny import checkpoint, write_tiny, write_tiny_awq


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model that is sure of its next token, as trained ones are, and AWQ's storage of it."""
    base = tmp_path_factory.mktemp("tiny")
    plain = write_tiny(base / "plain")
    tensors = load_file(plain / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 40.0
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    return {"bf16": plain, "awq-int4": write_tiny_awq(plain, base / "awq")}


@pytest.fixture
def cheat(monkeypatch):
    monkeypatch.setitem(ENGINES, "cheat", "tests.engines.cheating")
    monkeypatch.setattr(numerics, "STEP_TOLERANCE", 1e9)  # the quality gate is on trial: it must see what steps do
    return lambda name: monkeypatch.setattr(cheating, "CHEAT", name)


@pytest.fixture
def stored(folders, own_cache):
    """The folder with the reference's logits for the gate."""
    return ask(ReferenceTask(checkpoint=made(folders["bf16"]), device="cpu", budget_bytes=10**9, for_gate=True))[1]


def made(folder):
    return checkpoint(folder).model_copy(update={"content_hash": str(folder), "title": "tiny"})


def ask(task):
    """(last word, folder of a stored reference if one was told of, everything told)."""
    told = []
    finished = worker.answer(task.model_dump_json(), told.append)
    folder = next((e.folder for e in told if isinstance(e, ReferenceStored)), None)
    return finished, folder, told


def measure(folders, method="bf16", engine="cheat", **fields):
    task = MeasureTask(
        checkpoint=made(folders[method]), method=method, engine=engine, workload="p16-n8", device="cpu",
        prompt_indices=(0, 1), settle_s=0.1, warmup_output_len=4, **fields,
    )  # fmt: skip
    finished, _, told = ask(task)
    return finished, told


def speeds(told):
    return [e for e in told if isinstance(e, Sampled)]


@pytest.mark.parametrize("name", ["zeros", "last step", "permuted weight"])
def test_broken_output_is_incorrect_and_never_timed(folders, cheat, stored, name):
    cheat(name)
    finished, told = measure(folders, gate=Gate(seed=1, stored=stored))
    assert finished.status == "incorrect"
    assert finished.reason.startswith("the output is broken: on continuations (decode) mean KL"), finished.reason
    assert not speeds(told)


@pytest.mark.parametrize("name", ["zeros", "last step"])
def test_without_anything_to_compare_with_the_numerics_gate_still_finds_broken_steps(folders, cheat, monkeypatch, name):
    monkeypatch.undo()
    monkeypatch.setitem(ENGINES, "cheat", "tests.engines.cheating")
    monkeypatch.setattr(cheating, "CHEAT", name)
    finished, told = measure(folders, gate=Gate(seed=1))
    assert finished.status == "incorrect" and "decode steps" in finished.reason
    assert not speeds(told)


def test_a_wrong_scale_in_one_group_of_one_layer_is_found_by_numerics(folders, cheat, stored):
    """Far too little for the quality gate: it passes that, and would pass the check of tokens too."""
    cheat("wrong scale")
    finished, told = measure(folders, method="awq-int4", gate=Gate(seed=1, stored=stored))
    assert finished.status == "incorrect"
    assert finished.reason.startswith(f"model.{cheating.LAYER} does not multiply by the numbers that are stored")
    assert not speeds(told)
    found, _ = measure(folders, method="awq-int4")
    assert found.status == "ok", "without the gate nobody notices"


def test_an_honest_engine_passes_and_is_timed(folders, cheat, stored):
    cheat("")
    for method in ("bf16", "awq-int4"):
        finished, told = measure(folders, method=method, gate=Gate(seed=1, stored=stored))
        assert finished.status == "ok", finished.reason
        found = next(e for e in told if isinstance(e, Compared))
        assert told.index(found) < told.index(speeds(told)[0])
        assert found.quality.numerics.num_layers == 14
        (only,) = found.quality.passes
        assert (only.corpus, only.path, only.num_positions) == ("continuations", "decode", 64)
        assert only.reference_dtype == "float32" and 0 < only.storage_kl_nats < 1e-5


def test_random_weights_are_not_judged_by_what_they_cannot_lose(tmp_path, cheat, own_cache):
    """Nearly equal logits: nothing is gained from the context, so even zeros lose nothing that could be named."""
    folder = {"bf16": write_tiny(tmp_path / "random")}
    cheat("zeros")
    task = ReferenceTask(checkpoint=made(folder["bf16"]), device="cpu", budget_bytes=10**9, for_gate=True)
    finished, told = measure(folder, gate=Gate(seed=1, stored=ask(task)[1]))
    assert finished.status == "ok", finished.reason
    assert next(e for e in told if isinstance(e, Compared)).quality.passes[0].context_free_kl_nats < 0.5


def test_a_reference_is_stored_once_and_found_again(folders, own_cache, monkeypatch):
    task = ReferenceTask(checkpoint=made(folders["bf16"]), device="cpu", budget_bytes=10**9, for_gate=True)
    first = ask(task)[1]
    monkeypatch.setattr(comparing, "_load_reference", lambda *_: pytest.fail("it is there"))
    assert ask(task)[1] == first
    monkeypatch.undo()
    other = task.model_copy(update={"budget_bytes": 10**8})
    finished, folder, _ = ask(other.model_copy(update={"device": "cpu", "for_gate": False}))
    assert finished.status == "ok" and folder != first
    small = ask(task.model_copy(update={"budget_bytes": 10**4}))[0]
    assert small.status == "load_error" and "the decode path alone needs" in small.reason


@pytest.mark.parametrize("held", ["beside", "stored"])
def test_a_cell_is_compared_beside_the_reference_or_with_its_logits(folders, own_cache, cheat, held):
    cheat("")
    reference = made(folders["bf16"])
    how = {"reference": reference}
    if held == "stored":
        how = {"stored": ask(ReferenceTask(checkpoint=reference, device="cpu", budget_bytes=10**9))[1]}
    finished, _, told = ask(
        QualityTask(checkpoint=reference, method="bf16", engine="cheat", device="cpu", seed=3, **how)
    )
    assert finished.status == "ok", finished.reason
    found = next(e for e in told if isinstance(e, Compared))
    assert found.quality.passes[0].num_positions == 8 * 24 and found.quality.numerics.seed == 3
    assert found.models_bytes and found.peak_bytes and found.wall_s > 0 and found.cpu_s > 0


def test_answers_that_another_cell_has_are_not_generated_again(folders, own_cache, cheat, monkeypatch):
    cheat("")
    reference = made(folders["bf16"])
    task = QualityTask(
        checkpoint=reference, method="bf16", engine="cheat", device="cpu", seed=3, reference=reference
    )  # fmt: skip
    _, _, first = ask(task)
    (answered,) = [e for e in first if isinstance(e, Answered)]
    monkeypatch.setattr("bitbench.measure.readings._continuations", lambda *_: pytest.fail("they are there"))
    finished, _, second = ask(task.model_copy(update={"answers": answered.reading}))
    assert finished.status == "ok" and not [e for e in second if isinstance(e, Answered)]
    found = [next(e for e in told if isinstance(e, Compared)).quality for told in (first, second)]
    assert found[0] == found[1]


def test_a_broken_cell_has_no_quality_either(folders, own_cache, cheat):
    cheat("permuted weight")
    reference = made(folders["bf16"])
    finished, _, told = ask(
        QualityTask(checkpoint=reference, method="bf16", engine="cheat", device="cpu", seed=3, reference=reference)
    )
    assert finished.status == "incorrect"
    assert not [e for e in told if isinstance(e, Compared | Prepared)]
    assert json.loads(finished.model_dump_json())["reason"].startswith("the output is broken")
    assert torch.is_inference_mode_enabled() is False
