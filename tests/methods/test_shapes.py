"""Shapes load in transformers as what they claim to be, and meet outlier columns."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bitbench.facts import costs
from bitbench.facts.messages import PrepareTask, Progress
from bitbench.facts.models import SHAPES, ModelRef
from bitbench.facts.scheme import FP16, w4a16
from bitbench.facts.workloads import parse_workload
from bitbench.methods import awq_layout, outliers, safetensors_file, shape_checkpoint, shapes
from bitbench.methods.checkpoint import plan, prepare
from tests.methods.models import tiny


def load(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, local_files_only=True)


def storage_bytes(model) -> int:
    tensors = [*model.parameters(), *(b for n, b in model.named_buffers() if "inv_freq" not in n)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_loads_as_its_architecture(tmp_path: Path, name: str) -> None:
    shape = tiny(name)
    shape_checkpoint.make(shape, tmp_path, lambda progress: None)
    model = load(tmp_path)
    assert type(model).__name__ == shapes.ARCHITECTURES[shape.model_type]
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == SHAPES[name].tied_embeddings
    attention = model.model.layers[0].self_attn
    assert (attention.q_proj.bias is not None) == shape.qkv_bias
    assert hasattr(attention, "q_norm") == shape.qk_norm
    assert (attention.q_proj.out_features, attention.k_proj.out_features) == (128, 64)
    rope = model.config.rope_parameters
    assert rope["rope_theta"] == shape.rope_theta
    assert rope["rope_type"] == ("llama3" if shape.rope_scaling else "default")
    for key, value in shape.rope_scaling:
        assert rope[key] == value
    loaded = {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert loaded == {s.name: s.shape for s in shapes.tensor_specs(shape)}
    assert storage_bytes(model) == costs.weights_bytes(shape, FP16)


@pytest.mark.parametrize("name", SHAPES)
def test_the_files_are_as_big_as_the_facts_say(name: str) -> None:
    """At full size, without writing them."""
    assert sum(s.num_bytes for s in shapes.tensor_specs(SHAPES[name])) == costs.weights_bytes(SHAPES[name], FP16)


def test_values_are_normal_seeded_and_the_same_everywhere() -> None:
    specs, planted = shapes.tensor_specs(tiny()), ()
    values = dict(zip([s.name for s in specs], shapes.tensors(tiny(), planted), strict=True))
    first = values["model.layers.0.mlp.up_proj.weight"]
    assert float(first.std()) == pytest.approx(0.02, rel=0.02)
    assert abs(float(first.mean())) < 4 * 0.02 / math.sqrt(first.size)
    assert not np.array_equal(first, values["model.layers.1.mlp.up_proj.weight"])
    # The first values of one tensor, as this project made them at first: a change would change every checkpoint's hash.
    assert first.view(np.uint16).ravel()[:4].tolist() == [39394, 5277, 41415, 39819]


def test_planting_keeps_the_function() -> None:
    shape = tiny(num_layers=4, hidden_size=256, intermediate_size=512)
    planted = outliers.planted_channels(shape, shapes.WEIGHT_STD, shapes.SEED)
    assert {p.reader for p in planted} == {"attention", "down"}
    names = [s.name for s in shapes.tensor_specs(shape)]
    plain = dict(zip(names, shapes.tensors(shape, ()), strict=True))
    with_outliers = dict(zip(names, shapes.tensors(shape, planted), strict=True))
    for p in planted:
        assert p.scale > 1
        stem, channels = f"model.layers.{p.layer}.", list(p.channels)
        if p.reader == "down":
            row, column = f"{stem}mlp.up_proj.weight", f"{stem}mlp.down_proj.weight"
        else:
            row, column = f"{stem}input_layernorm.weight", f"{stem}self_attn.v_proj.weight"
        product = with_outliers[row][channels].astype(float).T @ with_outliers[column][:, channels].astype(float).T
        before = plain[row][channels].astype(float).T @ plain[column][:, channels].astype(float).T
        np.testing.assert_allclose(product, before, rtol=0.02, atol=2e-5)


def test_planted_rates_are_the_ones_aimed_at() -> None:
    """At half the depth of the 135M shape: measured on committed random ids, against the demo's 14% of layer calls."""
    shape = tiny(
        num_layers=16,
        hidden_size=576,
        intermediate_size=1536,
        vocab_size=4096,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
    )
    planted = outliers.planted_channels(shape, shapes.WEIGHT_STD, shapes.SEED)
    workload = parse_workload("p64-n1")
    ids = [workload.token_ids(i, shape.vocab_size)[0] for i in range(2)]
    from transformers import AutoConfig, AutoModelForCausalLM

    rates = {}
    for label, channels in (("planted", planted), ("plain", ())):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shapes.config(shape)))
        names = [s.name for s in shapes.tensor_specs(shape)]
        arrays = map(torch.from_numpy, shapes.tensors(shape, channels))
        model = model.to_empty(device="cpu").to(torch.bfloat16)
        model.load_state_dict(dict(zip(names, arrays, strict=True)), strict=False)
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
        rates[label] = outliers.measure(model, ids)
    assert rates["plain"].num_with_any == 0
    assert rates["planted"].num_layers == 16 * 7
    assert 0.10 < rates["planted"].token_rate < 0.22
    assert 0.3 < rates["planted"].num_with_any / rates["planted"].num_layers < 0.55


def prepare_shape(monkeypatch: pytest.MonkeyPatch, shape, method: str, seen: list[Progress]):
    monkeypatch.setitem(SHAPES, "tiny", shape)
    task = PrepareTask(model=ModelRef(kind="shape", name="tiny"), method=method, device="cpu")
    return prepare(task, seen.append)


def test_a_shape_is_prepared_once_with_notes(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    before = plan(ModelRef(kind="shape", name="qwen2.5-0.5b"), "fp16", "cpu")
    assert (before.cached, before.download_bytes, before.work) == (False, 0, "write random weights")
    checkpoint = prepare_shape(monkeypatch, tiny(), "fp16", seen)
    assert {p.stage for p in seen} == {"prepare"}
    assert any("outlier channels" in note and "planted" in note for note in checkpoint.notes)
    assert checkpoint.title == "SmolLM2-135M (random weights)"
    again: list[Progress] = []
    assert prepare_shape(monkeypatch, tiny(), "bnb-int8", again) == checkpoint
    assert again == []
    assert plan(ModelRef(kind="shape", name="tiny"), "bf16", "cpu").cached
    other = prepare_shape(monkeypatch, tiny(vocab_size=640), "fp16", [])
    assert other.content_hash != checkpoint.content_hash


@pytest.mark.parametrize(("name", "hidden", "group"), [("qwen2.5-0.5b", 128, 128), ("smollm2-135m", 192, 64)])
def test_awq_of_a_shape_multiplies_as_stored(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, hidden: int, group: int
) -> None:
    shape = tiny(name, hidden_size=hidden)
    checkpoint = prepare_shape(monkeypatch, shape, "awq-int4", [])
    assert checkpoint.group_size == group
    assert "no calibration: the weights are random" in checkpoint.origin
    folder = Path(checkpoint.path)
    assert json.loads((folder / "config.json").read_text())["quantization_config"]["group_size"] == group
    header = safetensors_file.read_header(folder / "model.safetensors")
    stored = sum(t["data_offsets"][1] - t["data_offsets"][0] for t in header.values())
    assert stored == costs.weights_bytes(shape, w4a16(group))
    assert header["model.embed_tokens.weight"]["dtype"] == "F16"
    _check_layers_against_dequantized(folder)


def test_a_shape_has_one_checkpoint_for_awq_and_round_to_nearest(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = prepare_shape(monkeypatch, tiny(), "rtn-int4", [])
    assert "round-to-nearest" in checkpoint.origin
    assert plan(ModelRef(kind="shape", name="tiny"), "awq-int4", "cpu").cached
    assert prepare_shape(monkeypatch, tiny(), "awq-int4", []) == checkpoint


def _check_layers_against_dequantized(folder: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    stored = load_file(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
    for name in ("self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"):
        layer = model.get_submodule(f"model.layers.1.{name}")
        assert type(layer).__name__ == "TorchAtenAwqLinear"
        parts = [stored[f"model.layers.1.{name}.{part}"] for part in ("qweight", "qzeros", "scales")]
        weight = awq_layout.dequantize(*parts)
        x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(5)).bfloat16()
        bias = stored.get(f"model.layers.1.{name}.bias", torch.zeros(weight.shape[0])).float()
        expected = x.float() @ weight.T + bias
        error = (layer(x).float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        assert error < 0.01  # bfloat16 scales and outputs: 0.4% each
