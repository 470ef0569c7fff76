"""Attention of one new token of each sequence over its cache, reference `Forward._attention`.

The positions are shared by programs: each reads its part of the cache and leaves a maximum, a sum and a weighted sum of
values (the online softmax of arXiv 1805.02867), and `_join` puts the parts together (as in Flash-Decoding). The number
of positions is read from device memory, so that one CUDA graph serves all of them.
The halves of a head are rotated against each other, so vectors are held in two halves everywhere.
Shapes: B sequences, N query heads, K key heads, M query heads of a key head, D head size, E half of it, L positions,
P parts.
"""

from typing import Any

import triton
import triton.language as tl

from bitbench.decode.kernels.triton.launching import launch
from bitbench.decode.operands import Parts
from bitbench.decode.tuning import Attending

_LOG2_E = 1.4426950408889634
# The least that tensor cores multiply.
_LEAST = 16


@triton.jit
def _rotated(row, norm, cos_E, sin_E, eps, used, e_E, HALF: tl.constexpr, NORM: tl.constexpr):
    """Both halves of heads, [M, E] each, of `row` (pointers [M, 1] to heads), normed where `NORM`, and rotated."""
    first_ME = tl.load(row + e_E[None, :], mask=used, other=0.0)
    second_ME = tl.load(row + HALF + e_E[None, :], mask=used, other=0.0)
    kind = first_ME.dtype
    first_ME = first_ME.to(tl.float32)
    second_ME = second_ME.to(tl.float32)
    if NORM:
        squares_M = tl.sum(first_ME * first_ME + second_ME * second_ME, axis=1)
        scale_M1 = (1.0 / tl.sqrt(squares_M / (2 * HALF) + eps))[:, None]
        weight1_E = tl.load(norm + e_E, mask=e_E < HALF, other=0.0).to(tl.float32)
        weight2_E = tl.load(norm + HALF + e_E, mask=e_E < HALF, other=0.0).to(tl.float32)
        first_ME = ((first_ME * scale_M1).to(kind).to(tl.float32) * weight1_E[None, :]).to(kind).to(tl.float32)
        second_ME = ((second_ME * scale_M1).to(kind).to(tl.float32) * weight2_E[None, :]).to(kind).to(tl.float32)
    turned1_ME = first_ME * cos_E[None, :] - second_ME * sin_E[None, :]
    turned2_ME = second_ME * cos_E[None, :] + first_ME * sin_E[None, :]
    return turned1_ME.to(kind), turned2_ME.to(kind)


@triton.jit
def _store_halves(at, first, second, used, HALF: tl.constexpr):
    tl.store(at, first, mask=used)
    tl.store(at + HALF, second, mask=used)


@triton.jit
def _appended(key, to_value, k_norm, cos_E, sin_E, eps, keys, values, at, e_E, HALF: tl.constexpr, NORM: tl.constexpr):
    """Both halves of the new key and of the new value, [1, E] each, written to the cache at `at`."""
    used_1E = (e_E < HALF)[None, :]
    one_1 = tl.arange(0, 1)[:, None]
    k1_1E, k2_1E = _rotated(key + one_1, k_norm, cos_E, sin_E, eps, used_1E, e_E, HALF, NORM)
    value = key + to_value + one_1 + e_E[None, :]
    v1_1E = tl.load(value, mask=used_1E, other=0.0)
    v2_1E = tl.load(value + HALF, mask=used_1E, other=0.0)
    at_1E = at + one_1 + e_E[None, :]
    _store_halves(keys + at_1E, k1_1E, k2_1E, used_1E, HALF)
    _store_halves(values + at_1E, v1_1E, v2_1E, used_1E, HALF)
    return k1_1E, k2_1E, v1_1E, v2_1E


@triton.jit
def _attend(
    qkv, q_norm, k_norm, cos, sin, keys, values, position, part_sums, part_maxima, part_totals,
    eps, scale, room,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, NORM: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_L: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A part of the positions for one key head. The first part also reads the new key and value, and appends them."""
    head, part, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = HEADS // KV_HEADS
    length = tl.load(position).to(tl.int32)
    m_M = tl.arange(0, BLOCK_M)
    e_E = tl.arange(0, BLOCK_E)
    used_E = e_E < HALF
    used_ME = (m_M < group)[:, None] & used_E[None, :]
    cos_E = tl.load(cos + length * HALF + e_E, mask=used_E, other=0.0)
    sin_E = tl.load(sin + length * HALF + e_E, mask=used_E, other=0.0)
    qkv += sequence * (HEADS + 2 * KV_HEADS) * 2 * HALF
    heads_M1 = (head * group + m_M)[:, None]
    q1_ME, q2_ME = _rotated(qkv + heads_M1 * 2 * HALF, q_norm, cos_E, sin_E, eps, used_ME, e_E, HALF, NORM)
    stride: tl.constexpr = KV_HEADS * 2 * HALF
    start_of = sequence.to(tl.int64) * room * stride + head * 2 * HALF

    maximum_M = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total_M = tl.full((BLOCK_M,), 0.0, tl.float32)
    sum1_ME = tl.full((BLOCK_M, BLOCK_E), 0.0, tl.float32)
    sum2_ME = tl.full((BLOCK_M, BLOCK_E), 0.0, tl.float32)
    if part == 0:
        k1_1E, k2_1E, v1_1E, v2_1E = _appended(
            qkv + (HEADS + head) * 2 * HALF, KV_HEADS * 2 * HALF, k_norm, cos_E, sin_E, eps,
            keys, values, start_of + length.to(tl.int64) * stride, e_E, HALF, NORM,
        )  # fmt: skip
        products_ME = q1_ME.to(tl.float32) * k1_1E.to(tl.float32) + q2_ME.to(tl.float32) * k2_1E.to(tl.float32)
        maximum_M = tl.sum(products_ME, axis=1) * scale
        total_M += 1.0
        sum1_ME += v1_1E.to(tl.float32)
        sum2_ME += v2_1E.to(tl.float32)

    each = (length + PARTS * BLOCK_L - 1) // (PARTS * BLOCK_L) * BLOCK_L
    end = tl.minimum(length, (part + 1) * each)
    for start in tl.range(part * each, end, BLOCK_L, num_stages=STAGES):
        l_L = start + tl.arange(0, BLOCK_L)
        at_LE = start_of + l_L.to(tl.int64)[:, None] * stride + e_E[None, :]
        used_LE = (l_L < end)[:, None] & used_E[None, :]
        k1_LE = tl.load(keys + at_LE, mask=used_LE, other=0.0)
        k2_LE = tl.load(keys + at_LE + HALF, mask=used_LE, other=0.0)
        score_ML = tl.dot(q1_ME, tl.trans(k1_LE), input_precision="ieee")
        score_ML = tl.dot(q2_ME, tl.trans(k2_LE), score_ML, input_precision="ieee") * scale
        score_ML = tl.where((l_L < end)[None, :], score_ML, -float("inf"))
        larger_M = tl.maximum(maximum_M, tl.max(score_ML, axis=1))
        weight_ML = tl.exp2(score_ML - larger_M[:, None])
        shrink_M = tl.exp2(maximum_M - larger_M)
        v1_LE = tl.load(values + at_LE, mask=used_LE, other=0.0)
        v2_LE = tl.load(values + at_LE + HALF, mask=used_LE, other=0.0)
        total_M = total_M * shrink_M + tl.sum(weight_ML, axis=1)
        rounded_ML = weight_ML.to(v1_LE.dtype)
        sum1_ME = tl.dot(rounded_ML, v1_LE, sum1_ME * shrink_M[:, None], input_precision="ieee")
        sum2_ME = tl.dot(rounded_ML, v2_LE, sum2_ME * shrink_M[:, None], input_precision="ieee")
        maximum_M = larger_M

    at_M = (sequence * HEADS + head * group + m_M) * PARTS + part
    tl.store(part_maxima + at_M, maximum_M, mask=m_M < group)
    tl.store(part_totals + at_M, total_M, mask=m_M < group)
    _store_halves(part_sums + at_M[:, None] * 2 * HALF + e_E[None, :], sum1_ME, sum2_ME, used_ME, HALF)


@triton.jit
def _join(
    part_sums, part_maxima, part_totals, y,
    HEAD_DIM: tl.constexpr, PARTS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One query head of one sequence. A part without positions has -inf as its maximum; the first part has some."""
    head = tl.program_id(0)
    p_P = tl.arange(0, BLOCK_P)
    d_D = tl.arange(0, BLOCK_D)
    used_P = p_P < PARTS
    maximum_P = tl.load(part_maxima + head * PARTS + p_P, mask=used_P, other=-float("inf"))
    total_P = tl.load(part_totals + head * PARTS + p_P, mask=used_P, other=0.0)
    weight_P = tl.exp2(maximum_P - tl.max(maximum_P, axis=0))
    at_PD = (head * PARTS + p_P)[:, None] * HEAD_DIM + d_D[None, :]
    used_PD = used_P[:, None] & (d_D < HEAD_DIM)[None, :]
    sum_D = tl.sum(tl.load(part_sums + at_PD, mask=used_PD, other=0.0) * weight_P[:, None], axis=0)
    y_D = sum_D / tl.sum(total_P * weight_P, axis=0)
    tl.store(y + head * HEAD_DIM + d_D, y_D.to(y.dtype.element_ty), mask=d_D < HEAD_DIM)


def attend(
    qkv_BQ: Any, norms: tuple[Any, Any] | None, cos_sin: Any, keys_BLKD: Any, values_BLKD: Any, position: Any,
    parts: Parts, y_BQ: Any, eps: float, blocks: Attending,
) -> None:  # fmt: skip
    """Append the new keys and values at `position` (one integer in device memory) and attend over all up to there.

    `qkv_BQ`: queries, keys and values of all heads side by side. `norms`: weights for the heads of q and of k, [D].
    `cos_sin`: float32 [2, context, D / 2]. Writes [B, N x D] to `y_BQ`.
    """
    batch, room, kv_heads, head_dim = keys_BLKD.shape
    assert keys_BLKD.is_contiguous() and values_BLKD.is_contiguous() and cos_sin[0].is_contiguous()
    num_heads, num_parts = parts.maxima.shape[1:]
    q_norm, k_norm = norms or (None, None)
    half = head_dim // 2
    launch(
        _attend, (kv_heads, num_parts, batch),
        qkv_BQ, q_norm, k_norm, cos_sin[0], cos_sin[1], keys_BLKD, values_BLKD, position,
        parts.sums, parts.maxima, parts.totals, eps, head_dim**-0.5 * _LOG2_E, room,
        HEADS=num_heads, KV_HEADS=kv_heads, HALF=half, NORM=norms is not None, PARTS=num_parts,
        BLOCK_M=max(_LEAST, triton.next_power_of_2(num_heads // kv_heads)),
        BLOCK_E=max(_LEAST, triton.next_power_of_2(half)),
        BLOCK_L=blocks.positions, STAGES=blocks.num_stages, num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    launch(
        _join, (batch * num_heads,),
        parts.sums, parts.maxima, parts.totals, y_BQ,
        HEAD_DIM=head_dim, PARTS=num_parts, BLOCK_P=triton.next_power_of_2(num_parts),
        BLOCK_D=triton.next_power_of_2(head_dim), num_warps=blocks.num_warps,
    )  # fmt: skip
