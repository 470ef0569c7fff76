"""Each Triton kernel against its piece of the plain decoder, over odd shapes."""

import pytest
import torch

from bitbench.decode import rope
from bitbench.decode.config import DecoderConfig, RopeConfig
from bitbench.decode.forward import Forward, multiply, new_cache
from bitbench.decode.matrix import Dense, Fp8Rows, fp8_rows, int4_groups, int8_rows
from bitbench.decode.operands import new_parts, operand
from bitbench.decode.tuning import Attending, Blocks
from bitbench.decode.weights import LayerWeights, Weights
from tests.decode.on_triton import DEVICE, needs_triton, poisoned, random

pytestmark = needs_triton


def stored(format, rows, inputs, group_size=64):
    if format == "16bit":
        return Dense(random(rows, inputs, dtype=torch.float16))
    if format == "int8":
        return int8_rows(random(rows, inputs))
    if format == "fp8":
        return fp8_rows(random(rows, inputs))
    shape = (rows, inputs // group_size)
    q, scale = torch.randint(0, 16, (rows, inputs)), torch.rand(shape).half() * 0.1
    return int4_groups(q.to(DEVICE), scale.to(DEVICE), torch.randint(0, 16, shape).to(DEVICE))


PRODUCTS = [
    ("16bit", 100, 576, 1), ("16bit", 70, 1000, 3), ("16bit", 33, 896, 16),
    ("int8", 100, 1000, 1), ("int8", 50, 576, 8), ("int8", 16, 896, 16),
    ("fp8", 50, 576, 1), ("fp8", 34, 1000, 3),
    ("int4", 100, 576, 1), ("int4", 40, 896, 3), ("int4", 34, 1024, 16),
]  # fmt: skip


@pytest.mark.parametrize(("format", "rows", "inputs", "batch"), PRODUCTS)
def test_products_are_those_of_the_dequantized_matrix(format, rows, inputs, batch):
    from bitbench.decode.kernels.triton.products import product

    matrix, x, bias = stored(format, rows, inputs), random(batch, inputs), random(rows)
    y, exact = poisoned(batch, rows), multiply(x, matrix)
    product(x, operand(matrix), y, Blocks(16, 128, 4, 2), bias_O=bias)
    assert torch.allclose(y, exact + bias, atol=2e-5 * exact.abs().max(), rtol=0)


@pytest.mark.parametrize(("format", "batch"), [("16bit", 1), ("int8", 8), ("fp8", 3), ("int4", 1), ("int4", 3)])
def test_gate_and_up_meet_in_one_product(format, batch):
    from bitbench.decode.kernels.triton.products import product

    matrix, x = stored(format, 2 * 84, 576), random(batch, 576)
    y, (gate, up) = poisoned(batch, 84), multiply(x, matrix).chunk(2, dim=-1)
    product(x, operand(matrix), y, Blocks(16, 64, 4, 2), silu=True)
    exact = torch.nn.functional.silu(gate) * up
    assert torch.allclose(y, exact, atol=1e-4 * exact.abs().max(), rtol=0)


@pytest.mark.parametrize("with_delta", [False, True])
@pytest.mark.parametrize(("format", "silu"), [("16bit", False), ("int8", True), ("fp8", False), ("int4", True)])
def test_one_vector_is_normed_on_its_way_into_a_product(format, silu, with_delta):
    from bitbench.decode.kernels.triton.products import Norm, product

    matrix, x, weight = stored(format, 120, 576), random(1, 576), random(576)
    delta = random(1, 576) if with_delta else None
    plain = forward(config(2, 1, 64))
    y, into, summed = poisoned(1, 60 if silu else 120), poisoned(1, 576), x + delta if with_delta else x
    product(
        x, operand(matrix), y, Blocks(16, 64, 4, 2), silu=silu, norm=Norm(delta, weight, plain.config.norm_eps, into)
    )
    exact = multiply(plain._norm(summed, weight), matrix)
    if silu:
        gate, up = exact.chunk(2, dim=-1)
        exact = torch.nn.functional.silu(gate) * up
    assert torch.equal(into, summed)
    assert torch.allclose(y, exact, atol=1e-4 * exact.abs().max(), rtol=0)


@pytest.mark.parametrize(("group_size", "inputs"), [(16, 144), (32, 96), (48, 144), (128, 384), (256, 512)])
@pytest.mark.parametrize("batch", [1, 2])
def test_groups_of_any_size_find_their_scales(group_size, inputs, batch):
    from bitbench.decode.kernels.triton.products import product

    matrix, x = stored("int4", 20, inputs, group_size), random(batch, inputs)
    y, exact = poisoned(batch, 20), multiply(x, matrix)
    product(x, operand(matrix), y, Blocks(16, 32, 4, 2))
    assert torch.allclose(y, exact, atol=2e-5 * exact.abs().max(), rtol=0)


@pytest.mark.parametrize("batch", [1, 2])
def test_every_8_bit_float_is_what_it_means(batch):
    from bitbench.decode.kernels.triton.products import product

    bits = torch.tensor([b for b in range(256) if b & 127 != 127], dtype=torch.uint8, device=DEVICE)  # 127 is NaN
    matrix = Fp8Rows(bits[:, None].repeat(1, 16), torch.ones(254, device=DEVICE))
    x, y = torch.zeros(batch, 16, device=DEVICE), poisoned(batch, 254)
    x[:, 3] = 1.0
    product(x, operand(matrix), y, Blocks(64, 16, 4, 2))
    assert torch.equal(y, bits.view(torch.float8_e4m3fn).float().expand(batch, -1))


BF16 = pytest.param(
    torch.bfloat16, marks=pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter truncates to bfloat16")
)


@pytest.mark.parametrize("dtype", [torch.float16, BF16])
@pytest.mark.parametrize("batch", [1, 16])
def test_16_bit_products_round_no_worse_than_torch(dtype, batch):
    from bitbench.decode.kernels.triton.products import product

    weight, x = random(64, 896, dtype=dtype), random(batch, 896, dtype=dtype)
    y, exact = poisoned(batch, 64, dtype=dtype), multiply(x.float(), Dense(weight))
    product(x, operand(Dense(weight)), y, Blocks(32, 128, 4, 2))
    assert (y - exact).square().mean() <= 1.02 * (multiply(x, Dense(weight)) - exact).square().mean()


@pytest.mark.parametrize(("batch", "hidden"), [(1, 576), (3, 1000), (16, 896)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sums_and_norms_are_the_plain_decoders(batch, hidden, dtype):
    from bitbench.decode.kernels.triton.norms import add_norm

    x, delta, weight = (random(*shape, dtype=dtype) for shape in ((batch, hidden), (batch, hidden), (hidden,)))
    plain = forward(config(2, 1, 64))
    for change in (None, delta):
        found, normed = x.clone(), poisoned(batch, hidden, dtype=dtype)
        add_norm(found, change, weight, normed, plain.config.norm_eps, num_warps=4)
        expected = x if change is None else x + change
        assert torch.equal(found, expected)
        close = 1e-6 if dtype == torch.float32 else 2e-3  # one unit in the last place
        assert torch.allclose(normed, plain._norm(expected, weight), rtol=close, atol=1e-6)


@pytest.mark.parametrize("format", ["16bit", "int8", "fp8"])
def test_embeddings_are_the_tokens_rows(format):
    from bitbench.decode.kernels.triton.embedding import embed

    table, tokens, x = stored(format, 50, 576), torch.tensor([49, 0, 7], device=DEVICE), poisoned(3, 576)
    embed(tokens, operand(table), x, 4)
    assert torch.equal(x, table.rows(tokens))


def config(heads, kv_heads, head_dim, qk_norm=False):
    sizes = (heads * head_dim, 64, 1, heads, kv_heads, head_dim, 64, 1024)
    return DecoderConfig("test", *sizes, 1e-6, RopeConfig(1e4), True, False, qk_norm)


def forward(c):
    """Its attention alone: the projections before and after it leave everything as it is."""
    eye = [Dense(torch.eye(n, device=DEVICE)) for n in (c.q_size + 2 * c.kv_size, c.q_size)]
    norms = [1 + 0.1 * random(c.head_dim) if c.qk_norm else None for _ in "qk"]
    layer = LayerWeights(None, eye[0], None, *norms, eye[1], None, None, None)
    return Forward(c, Weights(None, (layer,), None, None), rope.table(c, c.context_len, DEVICE))


CASES = [
    (14, 2, 64, False, 1, 1, 1), (9, 3, 64, False, 3, 31, 4), (16, 8, 128, True, 1, 32, 3),
    (14, 2, 64, True, 16, 33, 2), (9, 3, 64, False, 1, 700, 5), (3, 1, 96, False, 2, 33, 2),
    (4, 4, 16, True, 8, 40, 1), (14, 2, 64, False, 1, 0, 2),
]  # fmt: skip


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "norm", "batch", "length", "num_parts"), CASES)
def test_attention_is_the_plain_decoders_and_appends(heads, kv_heads, head_dim, norm, batch, length, num_parts):
    from bitbench.decode.kernels.triton.attention import attend

    c = config(heads, kv_heads, head_dim, norm)
    plain, room = forward(c), length + 20
    layer = plain.weights.layers[0]
    caches = [new_cache(c, batch, room, torch.float32, DEVICE) for _ in range(2)]
    keys, values = (random(batch, length, kv_heads, head_dim) for _ in "kv")
    for cache in caches:
        cache.keys[0, :, :length], cache.values[0, :, :length] = keys, values
        cache.keys[0, :, length:], cache.values[0, :, length:] = float("nan"), float("nan")
        cache.length = length
    qkv = random(batch, c.q_size + 2 * c.kv_size)
    expected = plain._attention(0, qkv[:, None], caches[0], plain.cos_sin[:, length : length + 1])[:, 0]
    parts, y = new_parts(batch, heads, head_dim, num_parts, DEVICE), poisoned(batch, c.q_size)
    for part in (parts.sums, parts.maxima, parts.totals):
        part.fill_(float("nan"))
    norms = (layer.q_norm, layer.k_norm) if norm else None
    position = torch.tensor([length], device=DEVICE)
    ours = caches[1]
    attend(qkv, norms, plain.cos_sin, ours.keys[0], ours.values[0], position, parts, y, c.norm_eps, Attending(32, 4, 2))
    assert torch.allclose(y, expected, atol=2e-5)
    for mine, theirs in ((ours.keys, caches[0].keys), (ours.values, caches[0].values)):
        assert torch.allclose(mine, theirs, atol=1e-5, equal_nan=True)


def test_16_bit_attention_rounds_no_worse_than_the_plain_decoder():
    from bitbench.decode.kernels.triton.attention import attend

    c = config(14, 2, 64)
    plain = forward(c)
    qkv, caches = random(2, c.q_size + 2 * c.kv_size, dtype=torch.float16), []
    keys, values = (random(2, 100, 2, 64, dtype=torch.float16) for _ in "kv")
    for dtype in (torch.float32, torch.float16, torch.float16):
        cache = new_cache(c, 2, 128, dtype, DEVICE)
        cache.keys[0, :, :100], cache.values[0, :, :100], cache.length = keys, values, 100
        caches.append(cache)
    turn = plain.cos_sin[:, 100:101]
    exact = plain._attention(0, qkv[:, None].float(), caches[0], turn)[:, 0]
    rounded = plain._attention(0, qkv[:, None], caches[1], turn)[:, 0]
    parts, y = new_parts(2, 14, 64, 3, DEVICE), poisoned(2, c.q_size, dtype=torch.float16)
    ours, position = caches[2], torch.tensor([100], device=DEVICE)
    attend(qkv, None, plain.cos_sin, ours.keys[0], ours.values[0], position, parts, y, 1e-6, Attending(32, 4, 2))
    assert (y - exact).square().mean() <= 1.1**2 * (rounded - exact).square().mean()
