"""Real models through the whole program: a hub of our own, a local folder, damaged and quantized ones."""

import json
import os
import subprocess
import sys

import pytest

from bitbench.results import store
from tests.methods.hub_server import Hub, serving
from tests.methods.models import tiny, write_model

SHORT = ("--workload", "p8-n4", "--prompts", "1", "--processes", "1", "--method", "bf16", "--out", "r.jsonl")


def bitbench(cwd, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "bitbench", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def rows(cwd):
    return json.loads(bitbench(cwd, "show", "r.jsonl", "--format", "json").stdout)


def test_a_hub_model_is_downloaded_only_after_asking(tmp_path):
    hub = Hub({"owner/name": write_model(tmp_path / "hub", tiny())})
    with serving(hub) as address:
        environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        refused = bitbench(tmp_path, "run", "owner/name", *SHORT, **environment)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "MB for owner/name? say --yes" in refused.stderr
        assert not any(path.endswith(".safetensors") for path in hub.requests)
        done = bitbench(tmp_path, "run", "owner/name", *SHORT, "--yes", **environment)
        assert done.returncode == 0, done.stdout + done.stderr
    assert [(row["method"], row["status"]) for row in rows(tmp_path)] == [("bf16", "ok")]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Where a local folder was run without profiles, in two processes."""
    folder = tmp_path_factory.mktemp("ran")
    write_model(folder / "model", tiny())
    done = bitbench(folder, "run", "./model", *SHORT, "--processes", "2", "--no-profile")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_local_folder_runs_and_its_memory_is_told_and_it_is_not_profiled_where_nobody_wants_that(ran):
    row = rows(ran)[0]
    assert row["weights_bytes"] == sum(f.stat().st_size for f in (ran / "model").glob("*.safetensors")) - header(
        ran / "model" / "model.safetensors"
    )
    assert row["kv_cache_bytes"] and row["peak_memory_bytes"] and row["load_peak_bytes"]
    assert row["allocated_after_load_bytes"] > row["weights_bytes"]
    assert [r.profiles for r in store.read([ran / "r.jsonl"]).records] == [(), ()]


def test_a_row_passes_the_gate_before_it_is_timed_and_its_record_says_so(ran):
    first, second = store.read([ran / "r.jsonl"]).records
    assert first.gate.numerics.num_layers == 14 and first.gate.numerics.layer_excess < 1
    assert [(p.corpus, p.num_positions) for p in first.gate.passes] == [("continuations", 64)]
    assert first.gate_s > 0 and second.gate is None


def test_the_first_process_of_a_row_is_profiled(tmp_path):
    write_model(tmp_path / "model", tiny())
    several = ("--processes", "2", "--engine", "transformers", "--engine", "graphed")
    assert bitbench(tmp_path, "run", "./model", *SHORT, *several).returncode == 0
    records = [r for r in store.read([tmp_path / "r.jsonl"]).records if r.status == "ok"]
    assert [len(r.profiles) for r in records] == [2, 0]
    assert {p.stage: p.source for p in records[0].profiles} == {"decode": "operators", "prefill": "operators"}
    assert records[0].matmul_flops_per_s > 1e9


def header(path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.mark.parametrize(
    ("damage", "message"), [("truncated", "truncated or damaged"), ("quantized", "is quantized already by gptq")]
)
def test_a_folder_that_cannot_be_used_is_a_row_with_its_reason(tmp_path, damage, message):
    extra = {"quantization_config": {"quant_method": "gptq", "bits": 4}} if damage == "quantized" else {}
    folder = write_model(tmp_path / "model", tiny(), **extra)
    if damage == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    done = bitbench(tmp_path, "run", "./model", *SHORT)
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in " ".join(done.stdout.split())
    assert rows(tmp_path)[0]["status"] == "load_error"


def test_quality_beside_the_reference_and_from_its_stored_logits_is_the_same(tmp_path):
    write_model(tmp_path / "model", tiny())
    arguments = ("quality", "./model", "-m", "bf16", "-m", "int8-wo", "--positions", "100", "--out", "q.jsonl")
    for more in ((), ("--store",)):
        done = bitbench(tmp_path, *arguments, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    found = store.read([tmp_path / "q.jsonl"]).qualities
    assert [(q.subject.method, q.reference_held, q.status) for q in found] == [
        ("bf16", "beside", "ok"), ("int8-wo", "beside", "ok"), ("bf16", "stored", "ok"), ("int8-wo", "stored", "ok"),
    ]  # fmt: skip
    for beside, stored in ((found[0], found[2]), (found[1], found[3])):
        (a,), (b,) = beside.quality.passes, stored.quality.passes  # no tokenizer: its own answers only
        assert a.reference_dtype == b.reference_dtype == "float32"
        assert a.kl_nats == pytest.approx(b.kl_nats, abs=1e-5)
        assert beside.reference_hash == stored.reference_hash and beside.models_bytes
    assert found[1].weights_bytes < found[0].weights_bytes
    cached = bitbench(tmp_path, "cache").stdout
    assert "reference" in cached and "logits of 192" in " ".join(cached.split())
