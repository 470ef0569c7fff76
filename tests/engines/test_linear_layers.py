"""The matrices read from a checkpoint are those that the libraries' own dequantization gives."""

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file

from bitbench.engines.linear_layers import NF4, int8_by_row, nf4_by_block
from bitbench.engines.transformers import TransformersEngine
from bitbench.methods import awq_layout
from bitbench.methods.registry import parse_method
from tests.engines.tiny import checkpoint, write_tiny, write_tiny_awq


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def layers(folder, method):
    model = TransformersEngine().load(checkpoint(folder), parse_method(method), "cpu", False)
    return {layer.name: layer for layer in model.linear_layers()}, model._model


@pytest.mark.parametrize("method", ["bf16", "bnb-int8", "bnb-int8-t0", "bnb-nf4"])
def test_every_projection_and_not_lm_head(folder, method):
    found, model = layers(folder, method)
    assert len(found) == 2 * 7 and not any("lm_head" in name for name in found)
    arithmetic = "w8a8" if "int8" in method else "16bit"
    for name, layer in found.items():
        module = model.get_submodule(name)
        assert layer.arithmetic == arithmetic and layer.in_features == module.in_features
        assert layer.outlier_threshold == (6.0 if method == "bnb-int8" else 0.0)
        weight = layer.weight()
        assert weight.dtype == torch.float32
        difference = (weight - theirs(module)).norm() / weight.norm()
        # Near ties may round the other way.
        assert difference < (1e-6 if method == "bf16" else 2e-3), name


def theirs(module) -> torch.Tensor:
    if type(module).__name__ == "Linear4bit":
        return bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    if type(module).__name__ == "Linear8bitLt":
        return module.weight.CB.float() * module.weight.SCB[:, None] / 127
    return module.weight.float()


def test_awq_is_read_from_its_three_tensors(folder, tmp_path):
    found, _ = layers(write_tiny_awq(folder, tmp_path / "awq"), "awq-int4")
    source = load_file(folder / "model.safetensors")
    assert len(found) == 14
    for name, layer in found.items():
        expected = awq_layout.dequantize(*awq_layout.round_to_nearest(source[f"{name}.weight"], 32))
        assert torch.equal(layer.weight(), expected)
        assert layer.arithmetic == "16bit"


def test_a_bias_is_read_from_the_checkpoint_too(tmp_path):
    folder = write_tiny(tmp_path / "m", "Qwen2")
    name = "model.layers.0.self_attn.q_proj"
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{name}.bias"] = torch.randn_like(tensors[f"{name}.bias"])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = TransformersEngine().load(checkpoint(folder), parse_method("bf16"), "cpu", False)
    module = model._model.get_submodule(name)
    module.bias.data = module.bias.data.flip(0)  # as a kernel that wants another order does
    layer = next(one for one in model.linear_layers() if one.name == name)
    assert torch.equal(layer.bias, tensors[f"{name}.bias"].to(torch.bfloat16))


def test_a_checkpoint_that_cannot_be_read_has_unknown_matrices(folder, tmp_path):
    _, model = layers(folder, "bf16")
    model.config._name_or_path = str(tmp_path)
    from bitbench.engines.linear_layers import linear_layers

    assert all(layer.weight is None for layer in linear_layers(model))


def test_nf4_is_bitsandbytes_table():
    assert torch.tensor(NF4).tolist() == pytest.approx(
        bitsandbytes.functional.get_4bit_type("nf4", device="cpu")[:16].tolist()
    )


@pytest.mark.parametrize("shape", [(3, 96), (5, 40)])
def test_blocks_may_cross_rows_and_end_early(shape):
    """Against the definition: bitsandbytes 0.50.2 quantizes so on a CPU too, but dequantizes there row by row."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    _, state = bitsandbytes.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    blocks = zip(nf4_by_block(weight, 64).flatten().split(64), weight.flatten().split(64), strict=True)
    for (found, given), absmax in zip(blocks, state.absmax.tolist(), strict=True):
        assert float(given.abs().max()) == absmax
        nearest = (given[:, None] / absmax - torch.tensor(NF4)).abs().min(1).values * absmax
        torch.testing.assert_close((found - given).abs(), nearest, atol=1e-6, rtol=1e-5)


def test_a_row_of_zeros_stays_zero():
    weight = torch.zeros(2, 64)
    assert torch.equal(int8_by_row(weight), weight) and torch.equal(nf4_by_block(weight, 64), weight)
