"""Hub models, against a small hub of our own in a child process with its own Hugging Face cache."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitbench.methods.hub import hub_reachable
from tests.methods.hub_server import COMMIT, Hub, serving
from tests.methods.models import write_model

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
# huggingface_hub reads its environment at import, so what is tested runs in a process of its own.
_CHILD = """
import json, sys
from bitbench.facts.errors import LoadError
from bitbench.facts.messages import PrepareTask
from bitbench.facts.models import ModelRef
from bitbench.methods.checkpoint import model_shape, plan, prepare
seen, out = [], {}
for action, name, method, quantize in json.loads(sys.argv[1]):
    model = ModelRef(kind="hub", name=name)
    try:
        if action == "plan":
            p = plan(model, method, "cpu", quantize)
            out = {"cached": p.cached, "download": p.download_bytes, "work": p.work}
        else:
            c = prepare(PrepareTask(model=model, method=method, device="cpu", quantize=quantize), seen.append)
            stages = [[p.stage, p.done, p.total] for p in seen]
            out = {**c.model_dump(), "stages": stages, "layers": model_shape(model).num_layers}
    except LoadError as error:
        out = {"error": str(error)}
    out["torch"] = "torch" in sys.modules
    print("ANSWER", json.dumps(out))
"""


class Asker:
    def __init__(self, address: str, home: Path, hub: Hub) -> None:
        self.address, self.home, self.hub = address, home, hub

    def __call__(self, *steps: tuple, **environment: str) -> list[dict]:
        settings = {"HF_ENDPOINT": self.address, "HF_HOME": str(self.home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        # Importing gptqmodel sets HF_HOME and more for its process, which other tests may have done.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "HUGGINGFACE_"))}
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, json.dumps([(*s, *(False,) * (4 - len(s))) for s in steps])],
            env={**inherited, **settings, **environment}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line.removeprefix("ANSWER ")) for line in done.stdout.splitlines() if "ANSWER" in line]


@pytest.fixture
def ask(tmp_path: Path, own_cache: Path) -> Iterator[Asker]:
    plain = write_model(tmp_path / "plain")
    (plain / "README.md").write_text("not wanted")
    (plain / "pytorch_model.bin").write_bytes(b"a pickle, not wanted")
    awq = write_model(tmp_path / "awq", quantization_config=AWQ)
    pickles = write_model(tmp_path / "pickles")
    (pickles / "model.safetensors").rename(pickles / "pytorch_model.bin")
    hub = Hub({"maker/model": plain, "maker/model-AWQ": awq, "lone/model": plain, "old/model": pickles})
    with serving(hub) as address:
        yield Asker(address, tmp_path / "hf", hub)


def test_a_model_is_planned_downloaded_and_then_used_offline(ask: Asker) -> None:
    size = sum(
        f.stat().st_size for f in ask.hub.models["lone/model"].iterdir() if f.suffix in (".json", ".safetensors")
    )
    before, made, after = ask(
        ("plan", "lone/model", "fp16"), ("prepare", "lone/model", "fp16"), ("plan", "lone/model", "fp16")
    )
    assert before == {"cached": False, "download": size, "work": "download lone/model", "torch": False}
    assert made["origin"] == f"lone/model at {COMMIT[:12]} of {ask.address}"
    assert (made["title"], made["layers"]) == ("model", 2)
    assert [s for s in made["stages"] if s[0] == "download"][-1] == ["download", size, size]
    assert (after["cached"], after["download"]) == (True, 0)
    assert not any("README" in path or ".bin" in path for path in ask.hub.requests)
    asked = len(ask.hub.requests)
    (again,) = ask(("prepare", "lone/model", "bnb-nf4"), HF_HUB_OFFLINE="1")
    assert (again["path"], again["content_hash"]) == (made["path"], made["content_hash"])
    assert len(ask.hub.requests) == asked


def test_the_makers_own_awq_checkpoint_is_preferred(ask: Asker) -> None:
    planned, made = ask(("plan", "maker/model", "awq-int4"), ("prepare", "maker/model", "awq-int4"))
    assert planned["work"] == "download maker/model-AWQ"
    assert made["origin"].startswith(f"maker/model-AWQ at {COMMIT[:12]}")
    assert made["group_size"] == 64


def test_unless_the_user_quantizes_or_there_is_none(ask: Asker) -> None:
    asked, lone = ask(("plan", "maker/model", "awq-int4", True), ("plan", "lone/model", "awq-int4"))
    assert asked["work"] == "download maker/model, then quantize with gptqmodel"
    assert lone["work"].startswith("download lone/model, then quantize")


def test_an_interrupted_download_is_finished(ask: Asker) -> None:
    (made,) = ask(("prepare", "lone/model", "fp16"))
    (Path(made["path"]) / "model.safetensors").unlink()
    (again,) = ask(("prepare", "lone/model", "fp16"))
    assert again["content_hash"] == made["content_hash"]


def test_what_the_hub_has_not_and_what_is_not_loaded(ask: Asker) -> None:
    unknown, planned, pickles = ask(
        ("prepare", "no/such", "fp16"), ("plan", "no/such", "fp16"), ("prepare", "old/model", "fp16")
    )
    assert unknown["error"] == f"no model no/such on {ask.address}, or it is private and needs `hf auth login`"
    assert planned["work"] == f"fails: {unknown['error']}"
    assert "unless --allow-pickle" in pickles["error"]


def test_offline_without_a_cached_model_is_one_line(ask: Asker) -> None:
    (answer,) = ask(("prepare", "lone/model", "fp16"), HF_HUB_OFFLINE="1")
    assert "is not in the Hugging Face cache" in answer["error"]
    assert "the environment says offline" in answer["error"]
    assert "\n" not in answer["error"]
    assert ask.hub.requests == []


def test_reachable(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", ask.address)
    assert hub_reachable()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub_reachable()


def test_a_hub_that_never_answers_costs_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert not hub_reachable()
        assert time.monotonic() - began < 2.0
