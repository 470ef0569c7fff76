"""Model folders that can't be used are refused before anything is loaded, naming the file."""

import json
from pathlib import Path

import pytest

from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Checkpoint, PrepareTask
from bitbench.facts.models import SHAPES, ModelRef
from bitbench.methods import folder, shapes
from bitbench.methods.checkpoint import CheckpointPlan, model_shape, plan, prepare
from tests.methods.models import tiny, write_model


def prepare_folder(path: Path, method: str = "fp16", **options) -> Checkpoint:
    task = PrepareTask(model=ModelRef(kind="folder", name=str(path)), method=method, device="cpu", **options)
    return prepare(task, lambda progress: None)


def plan_folder(path: Path, method: str = "fp16") -> CheckpointPlan:
    return plan(ModelRef(kind="folder", name=str(path)), method, "cpu")


def refused(path: Path, method: str = "fp16", **options) -> str:
    with pytest.raises(LoadError) as caught:
        prepare_folder(path, method, **options)
    message = str(caught.value)
    assert "\n" not in message
    if not options:
        assert plan_folder(path, method).work == f"fails: {message}"
    return message


def test_a_good_folder_is_used_where_it_is(tmp_path: Path) -> None:
    path = write_model(tmp_path / "good")
    checkpoint = prepare_folder(path, "bnb-nf4")
    assert checkpoint.path == str(path)
    assert (checkpoint.title, checkpoint.group_size, checkpoint.has_tokenizer) == ("good", 0, False)
    assert len(checkpoint.content_hash) == 64
    assert plan_folder(path).cached
    (path / "tokenizer.json").write_text("{}")
    assert prepare_folder(path).has_tokenizer


def test_a_folder_without_config(tmp_path: Path) -> None:
    assert f"no config.json in {tmp_path}" in refused(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_an_unreadable_config(tmp_path: Path, text: str) -> None:
    path = write_model(tmp_path / "m")
    (path / "config.json").write_text(text, encoding="latin-1")
    assert f"{path}/config.json" in refused(path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", shard_bytes=200_000)
    (path / "model-00002-of-00004.safetensors").unlink()
    assert "model-00002-of-00004.safetensors is missing" in refused(path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert f"{file} is truncated" in refused(path)


def test_a_broken_index_is_named(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", shard_bytes=200_000)
    (path / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    assert "model.safetensors.index.json cannot be read" in refused(path)


def test_pickles_only_by_leave(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    assert "unless --allow-pickle" in refused(path)
    assert prepare_folder(path, allow_pickle=True).content_hash
    (path / "pytorch_model.bin").unlink()
    assert "no weights in" in refused(path)


def test_remote_code_only_by_leave(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    assert "--trust-remote-code" in refused(path)
    assert prepare_folder(path, trust_remote_code=True).content_hash


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}


def test_an_awq_folder_is_for_awq_alone(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", quantization_config=AWQ)
    checkpoint = prepare_folder(path, "awq-int4")
    assert (checkpoint.path, checkpoint.group_size) == (str(path), 64)
    assert plan_folder(path, "awq-int4").cached
    for method in ("fp16", "bf16", "bnb-int8", "bnb-nf4", "rtn-int4"):
        assert "is quantized already by awq: choose awq-int4, or give the 16-bit model" in refused(path, method)


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"load_in_8bit": True}, "bitsandbytes"),
    ],
)
@pytest.mark.parametrize("method", ["fp16", "awq-int4", "rtn-int4"])
def test_another_quantization_is_named(tmp_path: Path, stored: dict, name: str, method: str) -> None:
    path = write_model(tmp_path / "m", quantization_config=stored)
    assert f"is quantized already by {name}: give the 16-bit model" in refused(path, method)


def test_awq_of_other_bits_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", quantization_config={**AWQ, "bits": 8})
    assert "awq-int4 is 4 bits" in refused(path, "awq-int4")


def test_quantizing_needs_a_tokenizer_and_a_known_architecture(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="has no tokenizer"):
        prepare_folder(write_model(tmp_path / "m"), "awq-int4")
    unknown = write_model(tmp_path / "g", model_type="gemma")
    for method in ("awq-int4", "rtn-int4"):
        with pytest.raises(LoadError, match=f"to {method} here: only Llama, Mistral, Qwen2 and Qwen3"):
            prepare_folder(unknown, method)


def test_the_plan_of_quantizing_says_time_and_disk(tmp_path: Path) -> None:
    planned = plan_folder(write_model(tmp_path / "m"), "awq-int4")
    assert not planned.cached
    assert planned.work.startswith("quantize with gptqmodel, about 1 minute")
    assert planned.disk_bytes


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_read_from_a_config(tmp_path: Path, name: str) -> None:
    read = folder.shape_of(shapes.config(SHAPES[name]), "x")
    for field in (
        "linear_shapes",
        "num_layers",
        "vocab_size",
        "tied_embeddings",
        "qkv_bias",
        "qk_norm",
        "max_positions",
    ):
        assert getattr(read, field) == getattr(SHAPES[name], field)


def test_the_sizes_of_every_kind_of_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "m", tiny(vocab_size=777))
    assert model_shape(ModelRef(kind="folder", name=str(path))).vocab_size == 777
    (path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert model_shape(ModelRef(kind="folder", name=str(path))) is None
    assert model_shape(ModelRef(kind="demo", name="demo")) == SHAPES["smollm2-135m"]
    assert model_shape(ModelRef(kind="shape", name="qwen3-0.6b")) == SHAPES["qwen3-0.6b"]
    assert model_shape(ModelRef(kind="hub", name="Qwen/Qwen2.5-7B-Instruct")) == SHAPES["qwen2.5-7b"]
    assert model_shape(ModelRef(kind="hub", name="nobody/nothing")) is None
