"""Round-to-nearest INT4: the numbers by an independent computation, and the checkpoint as the engine runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bitbench.engines.transformers import TransformersEngine
from bitbench.facts import costs
from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Checkpoint, PrepareTask, Progress
from bitbench.facts.models import ModelRef
from bitbench.facts.scheme import w4a16
from bitbench.methods import awq_layout, safetensors_file
from bitbench.methods.checkpoint import plan, prepare
from bitbench.methods.registry import default_methods, parse_method
from tests.methods.models import tiny, write_model


def rounded(folder: Path, **options) -> Checkpoint:
    task = PrepareTask(model=ModelRef(kind="folder", name=str(folder)), method="rtn-int4", device="cpu", **options)
    return prepare(task, lambda progress: None)


def stored(folder: Path | str) -> dict[str, torch.Tensor]:
    return {k: t for file in Path(folder).glob("*.safetensors") for k, t in load_file(file).items()}


def dequantized(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The state that the stored numbers mean, under the names of the 16-bit checkpoint."""
    held = stored(checkpoint.path)
    state = {k: t for k, t in held.items() if not k.endswith((".qweight", ".qzeros", ".scales"))}
    for stem in (k.removesuffix("qweight") for k in held if k.endswith(".qweight")):
        state[f"{stem}weight"] = awq_layout.dequantize(*(held[stem + part] for part in ("qweight", "qzeros", "scales")))
    return state


def by_hand(weight: np.ndarray, group_size: int) -> np.ndarray:
    """Group after group in float64, with numpy: min/max grid of 16 places, float16 scale, integer zero point."""
    out = np.empty(weight.shape)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], group_size):
            group = weight[row, start : start + group_size].astype(np.float64)
            low, high = min(0.0, group.min()), max(0.0, group.max())
            scale = float(np.float16(np.float32(high - low) / np.float32(15)))
            zero = np.rint(-low / scale)
            places = np.clip(np.rint(group / scale) + zero, 0, 15)
            out[row, start : start + group_size] = (places - zero) * scale
    return out


@pytest.mark.parametrize(("hidden", "group"), [(128, 128), (192, 64), (160, 32)])
def test_the_numbers_are_those_of_a_plain_computation(tmp_path: Path, own_cache: Path, hidden: int, group: int) -> None:
    """Also the group-size rule: the largest of 128, 64 and 32 that divides every matrix."""
    source = write_model(tmp_path / "m", tiny(hidden_size=hidden))
    checkpoint = rounded(source)
    assert checkpoint.group_size == group
    before, after = stored(source), dequantized(checkpoint)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(after[name], weight)
            continue
        np.testing.assert_allclose(after[name], by_hand(weight.numpy(), group), rtol=2**-11, atol=0)
        steps = stored(checkpoint.path)[name.replace("weight", "scales")].T.float().repeat_interleave(group, dim=1)
        assert ((after[name] - weight.float()).abs() <= (0.5 + 15 * 2**-11 + 1e-5) * steps).all()


def test_hidden_sizes_that_no_group_divides_are_refused(tmp_path: Path, own_cache: Path) -> None:
    with pytest.raises(LoadError, match="no group of"):
        rounded(write_model(tmp_path / "m", tiny(hidden_size=144)))


def test_a_folder_is_rounded_once(tmp_path: Path, own_cache: Path) -> None:
    source = write_model(tmp_path / "tiny-model", shard_bytes=200_000)
    for name in ("tokenizer.json", "chat_template.jinja", "origin.json"):
        (source / name).write_text("{}")
    model = ModelRef(kind="folder", name=str(source))
    planned = plan(model, "rtn-int4", "cpu")
    assert (planned.cached, planned.work) == (False, "round to nearest, about 1 s")
    assert planned.disk_bytes == costs.weights_bytes(tiny(), w4a16(128))
    seen: list[Progress] = []
    task = PrepareTask(model=model, method="rtn-int4", device="cpu")
    checkpoint = prepare(task, seen.append)
    assert [(p.done, p.total) for p in seen if p.stage == "quantize"] == [(0, 2), (1, 2), (2, 2)]
    assert checkpoint.origin.startswith("round-to-nearest INT4 g128 by bitbench, no calibration, from: local folder")
    assert (checkpoint.title, checkpoint.has_tokenizer) == ("tiny-model", True)
    assert {f.name for f in Path(checkpoint.path).iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "origin.json")
    }
    assert plan(model, "rtn-int4", "cuda:0").cached
    again: list[Progress] = []
    assert prepare(task, again.append) == checkpoint
    assert "quantize" not in {p.stage for p in again}
    assert not plan(model, "awq-int4", "cpu").cached


def test_the_file_is_as_big_as_the_facts_say_and_says_awq(tmp_path: Path, own_cache: Path) -> None:
    shape = tiny("qwen2.5-7b")
    path = Path(rounded(write_model(tmp_path / "m", shape)).path)
    header = safetensors_file.read_header(path / "model.safetensors")
    assert sum(t["data_offsets"][1] - t["data_offsets"][0] for t in header.values()) == costs.weights_bytes(
        shape, w4a16(128)
    )
    assert {header[name]["dtype"] for name in ("lm_head.weight", "model.embed_tokens.weight")} == {"F16"}
    assert header["model.layers.0.self_attn.q_proj.bias"]["dtype"] == "F16"
    config = json.loads((path / "config.json").read_text())
    assert config.pop("quantization_config") == awq_layout.quantization_config(128)
    assert config == json.loads((tmp_path / "m" / "config.json").read_text())


@pytest.mark.parametrize(("given", "kept"), [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16)])
def test_what_is_not_rounded_stays_16_bit(
    tmp_path: Path, own_cache: Path, given: torch.dtype, kept: torch.dtype
) -> None:
    source = write_model(tmp_path / "m")
    before = {name: tensor.to(given) for name, tensor in stored(source).items()}
    save_file(before, source / "model.safetensors")
    checkpoint = rounded(source)
    embedding = stored(checkpoint.path)["model.embed_tokens.weight"]
    assert embedding.dtype == kept
    assert torch.equal(embedding, before["model.embed_tokens.weight"].to(kept))
    name = "model.layers.1.mlp.up_proj.weight"
    expected = by_hand(before[name].float().numpy(), 128)
    np.testing.assert_allclose(dequantized(checkpoint)[name], expected, rtol=2**-11, atol=0)


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-7b", "qwen3-0.6b"])
def test_the_engine_computes_with_the_stored_numbers(tmp_path: Path, own_cache: Path, name: str) -> None:
    """Logits of the CPU engine against the dequantized weights in float32: nearer than the 16-bit model's are."""
    from transformers import AutoModelForCausalLM

    source = write_model(tmp_path / "m", tiny(name))
    checkpoint = rounded(source)
    engine = TransformersEngine().load(checkpoint, parse_method("rtn-int4"), "cpu", False)
    assert engine.kernels().name == "ATen int4"
    assert engine.kernels().module_classes == {"TorchAtenAwqLinear": 14}
    ids = torch.randint(0, 512, (25,), generator=torch.Generator().manual_seed(4)).tolist()
    got = engine.logits(ids, 24)
    reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.inference_mode():
        plain = reference(torch.tensor([ids])).logits[0, :-1]
        missing, unexpected = reference.load_state_dict(dequantized(checkpoint), strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}
        expected = reference(torch.tensor([ids])).logits[0, :-1]
    error, rounding = ((got - x).norm() / expected.norm() for x in (expected, plain))
    assert error < 0.02  # bfloat16 through two layers
    assert rounding > 4 * error


def test_weights_that_cannot_be_rounded_are_named(tmp_path: Path, own_cache: Path) -> None:
    source = write_model(tmp_path / "m")
    good = stored(source)
    name = "model.layers.1.mlp.down_proj.weight"
    bad = good[name].clone()
    bad[3, 7] = float("inf")
    save_file(good | {name: bad}, source / "model.safetensors")
    with pytest.raises(LoadError, match=f"{name}: a weight is not finite"):
        rounded(source)
    save_file({k: t for k, t in good.items() if k != name}, source / "model.safetensors")
    with pytest.raises(LoadError, match="13 weights named"):
        rounded(source)
    assert not list(own_cache.glob("*rtn*"))
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(LoadError, match="is a pickle"):
        rounded(source, allow_pickle=True)


def test_it_is_asked_for_by_name() -> None:
    assert [parse_method(f"rtn-int4:{kernel}").label for kernel in ("marlin", "gemm")] == [
        *("rtn-int4:marlin", "rtn-int4:gemm")
    ]
    assert not any("rtn-int4" in default_methods(device) for device in ("cpu", "cuda:0"))
    awq, rtn = parse_method("awq-int4").method, parse_method("rtn-int4").method
    assert (rtn.scheme, rtn.kernels, rtn.needs, rtn.family) == (awq.scheme, awq.kernels, awq.needs, awq.family)
