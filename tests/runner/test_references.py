"""What a cell is compared with, and when nothing is."""

import pytest

from bitbench.facts.messages import Checkpoint, Finished
from bitbench.facts.models import parse_model
from bitbench.methods.checkpoint import CheckpointPlan
from bitbench.results.machine import FAKE
from bitbench.runner import references
from bitbench.runner.listener import Silent
from bitbench.runner.plan import Request, make_plan
from bitbench.runner.preparing import Preparing
from tests.runner.runs import fake_request


def checkpoint(folder, num_bytes):
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.truncate(num_bytes)
    return Checkpoint(path=str(folder), content_hash="x", origin="test")


@pytest.mark.parametrize(
    ("device", "free", "fits"),
    [
        ("cpu", 10 * 10**9, True),  # 2 x 2 GB in float32, 3 GB and 2 GB of room
        ("cpu", 9 * 10**9, False),
        ("cuda:0", 8 * 10**9, True),
        ("cuda:0", 7 * 10**9, False),
        ("cuda:0", None, True),
    ],
)
def test_both_fit_by_the_sizes_of_their_files(tmp_path, monkeypatch, device, free, fits):
    monkeypatch.setattr(references, "_free_bytes", lambda _: free)
    reference = checkpoint(tmp_path / "a", 2 * 10**9)
    cells = [checkpoint(tmp_path / "b", 10**9), checkpoint(tmp_path / "c", 3 * 10**9)]
    assert references.fit_beside(reference, cells, device) == fits


def prepared(model: str = "demo") -> tuple[Preparing, object]:
    request = Request(
        model=parse_model(model), methods=fake_request("fp16").methods, engines=("transformers",), device="cpu",
        workload=fake_request().workload,
    )  # fmt: skip
    return Preparing(request, Silent()), make_plan(request, FAKE).cells[0]


def test_random_weights_and_the_fake_have_nothing_to_be_compared_with():
    preparing, planned = prepared("shape:smollm2-135m")
    assert references.for_gate(preparing, planned) == (None, "")
    fake = make_plan(fake_request("fp16"), FAKE).cells[0]
    assert references.for_gate(Preparing(fake_request(), Silent()), fake) == (None, "")


def test_nothing_is_downloaded_for_the_gate(monkeypatch):
    preparing, planned = prepared()
    monkeypatch.setattr(references, "plan_checkpoint", lambda *_: CheckpointPlan(False, 10**9, 10**9, "download x"))
    monkeypatch.setattr(Preparing, "sixteen_bit", lambda *_: pytest.fail("it would be prepared"))
    assert references.for_gate(preparing, planned) == (
        None,
        "no quality gate: the 16-bit model is not here (download x)",
    )


def test_a_16_bit_model_that_does_not_fit_is_a_note_and_no_failure(monkeypatch):
    preparing, planned = prepared()
    monkeypatch.setattr(references, "plan_checkpoint", lambda *_: CheckpointPlan(True, 0, 0, "ready"))
    monkeypatch.setattr(Preparing, "sixteen_bit", lambda *_: Checkpoint(path="", content_hash="", origin=""))
    lacking = Finished(status="out_of_memory", reason="2 GB were asked for")
    monkeypatch.setattr(Preparing, "collect", lambda *_: ([], lacking))
    found, note = references.for_gate(preparing, planned)
    assert found is None
    assert note == "no quality gate: the 16-bit model could not be asked (out_of_memory: 2 GB were asked for)"
