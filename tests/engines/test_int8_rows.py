"""INT8 by row: the numbers are the nearest, both ways of multiplying agree, and memory is what is stored."""

import pytest
import torch

from bitbench.engines.int8_rows import Int8RowsEmbedding, Int8RowsLinear
from bitbench.engines.transformers import TransformersEngine
from bitbench.methods.int8_rows import dequantize, round_rows
from bitbench.methods.registry import parse_method
from tests.engines.tiny import checkpoint, in_float32, prompt_ids, write_tiny, write_tiny_awq


def load(folder, method):
    return TransformersEngine().load(checkpoint(folder), parse_method(method), "cpu", False)


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16])
def test_no_weight_moves_by_more_than_half_a_step(scale_dtype):
    weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(1))
    weight[3] = 0.0
    weight[5] *= 1e-6
    q, scale = round_rows(weight, scale_dtype)
    assert q.dtype == torch.int8 and scale.dtype == scale_dtype
    assert int(q.abs().max()) == 127
    moved = (dequantize(q, scale) - weight).abs() / scale.float()[:, None]
    assert float(moved.max()) <= 0.5 + 1e-4
    assert not dequantize(q, scale)[3].any()


@pytest.mark.parametrize("num", [1, 16, 17, 60])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float32, 1e-5)])
def test_few_rows_and_many_are_multiplied_by_the_same_numbers(num, dtype, tolerance):
    generator = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(48, 64, generator=generator), torch.randn(48, generator=generator).to(dtype)
    layer = Int8RowsLinear(*round_rows(weight, dtype), bias)
    x = torch.randn(2, num, 64, generator=generator).to(dtype)
    exact = x.float() @ dequantize(layer.q_OI, layer.scale_O).T + bias.float()
    found = layer(x)
    assert found.dtype == dtype and found.shape == (2, num, 48)
    assert float((found.float() - exact).norm() / exact.norm()) < tolerance


def test_an_embedding_is_the_same_table():
    weight = torch.randn(50, 32, generator=torch.Generator().manual_seed(3))
    q, scale = round_rows(weight, torch.bfloat16)
    ids = torch.tensor([[3, 49], [0, 7]])
    found = Int8RowsEmbedding(q, scale, torch.bfloat16)(ids)
    assert torch.allclose(found.float(), dequantize(q, scale)[ids], rtol=1e-2)


@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_is_stored_in_8_bits_and_a_tied_table_once(tmp_path, tied):
    folder = write_tiny(tmp_path / "tiny", tie_word_embeddings=tied)
    plain, small = load(folder, "bf16"), load(folder, "int8-wo")
    layers = 2 * (64 * (64 + 32 + 32) + 64 * 64 + 3 * 64 * 128)
    table, norms = 512 * 64, 5 * 64 * 2
    scales = 2 * (2 * (64 + 32 + 32 + 64 + 128 + 128 + 64) + 512)
    assert plain.weights_bytes() == 2 * (layers + table * (1 if tied else 2)) + norms
    assert small.weights_bytes() == layers + table + scales + norms + (0 if tied else 2 * table)
    assert small.unread_embedding_bytes() == (0 if tied else 2 * table)
    assert small.kernels().name == "ATen int8"
    assert small.kernels().module_classes == {"Int8RowsLinear": 14}
    assert small.matrices().head_bytes == table + 2 * 512
    assert small.dtype() == "bfloat16"


def test_it_says_nearly_what_the_model_says(tmp_path):
    folder = write_tiny(tmp_path / "tiny")
    ids = prompt_ids(30)[0]
    exact = in_float32(folder)(torch.tensor([ids])).logits[0].detach()
    model = load(folder, "int8-wo")
    found = model.logits([*ids, 1], 30).float()
    assert float((found - exact).norm() / exact.norm()) < 0.02
    stepped = model.forced_logits(ids[:10], [*ids[10:], 1])
    assert float((stepped - exact[9:]).norm() / exact[9:].norm()) < 0.02


def test_awq_with_an_int8_head_has_awqs_layers(tmp_path):
    folder = write_tiny(tmp_path / "plain")
    awq = write_tiny_awq(folder, tmp_path / "awq")
    four, eight = load(awq, "awq-int4"), load(awq, "awq-int4-head8")
    ids = prompt_ids(20)[0]
    difference = (eight.logits(ids, 8).float() - four.logits(ids, 8).float()).norm() / four.logits(
        ids, 8
    ).float().norm()
    assert 0 < float(difference) < 0.03
    scales = 512 * (2 if eight.dtype() == "bfloat16" else 4)  # float16 where a GPU is there, too
    assert four.matrices().head_bytes == 2 * 512 * 64 and eight.matrices().head_bytes == 512 * 64 + scales
    assert eight.kernels().name == "ATen int4, lm_head ATen int8"
    heads = [layer for layer in eight.linear_layers() if layer.name == "lm_head"]
    assert len(heads) == 1 and heads[0].weight is not None
    assert not [layer for layer in four.linear_layers() if layer.name == "lm_head"]
