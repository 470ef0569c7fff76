"""A few vectors times a matrix as it is stored: y = x W^T, reference `forward.multiply`.

A program makes some rows of the result. One vector is multiplied number by number; more of them go to the tensor cores,
filled up to 16. There each warp takes its own part of the inputs, so that no number is unpacked twice, and the parts
are summed at the end. Sums are float32. Stored numbers become floats by writing them into the low bits of 2^23, whose
neighbours are 1 apart, or of a 16-bit float whose neighbours are, which is faster than a conversion on most GPUs; E4M3
by shifting its bits into a half's, which needs no FP8 hardware and whose missing factor of 256 is in the scales
(operands.py). Shapes: B vectors, I inputs, O outputs, J stored elements of a row (numbers, or words of eight 4-bit
numbers), G groups, S parts of the inputs.
"""

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from bitbench.decode.kernels.triton.launching import launch
from bitbench.decode.operands import Operand
from bitbench.decode.tuning import Blocks

COLUMNS = 16


@triton.jit
def _whole(bits, offset):
    """An integer from 0 to 2^23 less `offset`, float32."""
    return (bits | 0x4B000000).to(tl.float32, bitcast=True) - (offset + 8388608.0)


@triton.jit
def _meaning(element, FORMAT: tl.constexpr):
    """A stored 8- or 16-bit number without its scale, float32."""
    if FORMAT == "int8":
        return _whole((element ^ 0x80).to(tl.int32), 128.0)
    elif FORMAT == "fp8":
        wide = element.to(tl.int16)
        return (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        return element.to(tl.float32)


@triton.jit
def _inputs(x, delta, weight, into, i_J, used_J, writes, NORM: tl.constexpr):
    """Some of one vector in float32, and their squares: x itself, or before its norm (x + delta) times the weight, of
    which the sum is rounded as where it is stored.
    """
    x_J = tl.load(x + i_J, mask=used_J, other=0.0)
    if NORM == 0:
        return x_J.to(tl.float32), 0.0
    else:
        if NORM == 2:
            x_J = (x_J.to(tl.float32) + tl.load(delta + i_J, mask=used_J, other=0.0).to(tl.float32)).to(x_J.dtype)
        tl.store(into + i_J, x_J, mask=used_J & writes)
        x32_J = x_J.to(tl.float32)
        return x32_J * tl.load(weight + i_J, mask=used_J, other=0.0).to(tl.float32), x32_J * x32_J


@triton.jit
def _one(
    x, delta, weight, into, eps, writes, numbers, scales, zeros, first_row, num_rows,
    NORM: tl.constexpr,
    INPUTS: tl.constexpr, ELEMENTS: tl.constexpr, FORMAT: tl.constexpr, RUN: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_J: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Some rows of one vector's product in float32, [BLOCK_O, 1]: scaled where scales belong to groups.

    The norm's own scale is applied at the end, so that its sum is found on the way.
    """
    row_O = first_row + tl.arange(0, BLOCK_O)
    in_range_O1 = (row_O < num_rows)[:, None]
    sum_OJ = tl.full((BLOCK_O, BLOCK_J), 0.0, tl.float32)
    squares_J = tl.full((BLOCK_J,), 0.0, tl.float32)
    for start in tl.range(0, ELEMENTS, BLOCK_J, num_stages=STAGES):
        j_J = start + tl.arange(0, BLOCK_J)
        at_OJ = row_O.to(tl.int64)[:, None] * ELEMENTS + j_J[None, :]
        element_OJ = tl.load(numbers + at_OJ, mask=in_range_O1 & (j_J < ELEMENTS)[None, :], other=0)
        if FORMAT == "int4":
            # Nibble k of word j of a chunk of 128 inputs is input 16 k + j (operands.py).
            for k in tl.static_range(8):
                i_J = j_J // 16 * 128 + 16 * k + j_J % 16
                used_J = i_J < INPUTS
                if k % RUN == 0:  # otherwise the group is that of the last k
                    group_OJ = (i_J // GROUP)[None, :] * num_rows + row_O[:, None]
                    has_OJ = used_J[None, :] & in_range_O1
                    scale_OJ = tl.load(scales + group_OJ, mask=has_OJ, other=0.0).to(tl.float32)
                    zero_OJ = tl.load(zeros + group_OJ, mask=has_OJ, other=0).to(tl.float32)
                w_OJ = _whole((element_OJ >> (4 * k)) & 15, zero_OJ) * scale_OJ
                x_J, square_J = _inputs(x, delta, weight, into, i_J, used_J, writes, NORM)
                sum_OJ += w_OJ * x_J[None, :]
                squares_J += square_J
        else:
            w_OJ = _meaning(element_OJ, FORMAT)
            x_J, square_J = _inputs(x, delta, weight, into, j_J, j_J < INPUTS, writes, NORM)
            sum_OJ += w_OJ * x_J[None, :]
            squares_J += square_J
    sum_O1 = tl.sum(sum_OJ, axis=1)[:, None]
    if NORM:
        sum_O1 *= 1.0 / tl.sqrt(tl.sum(squares_J, axis=0) / INPUTS + eps)
    return sum_O1


@triton.jit
def _exact(element, offset, FORMAT: tl.constexpr, dtype: tl.constexpr):
    """Stored numbers without their scale, less `offset`, in `dtype`, which holds them exactly."""
    if FORMAT == "int4" and dtype == tl.float16:
        return (element | 0x6400).to(tl.int16).to(tl.float16, bitcast=True) - (offset + 1024.0).to(tl.float16)
    elif FORMAT == "int4" and dtype == tl.bfloat16:
        return (element | 0x4300).to(tl.int16).to(tl.bfloat16, bitcast=True) - (offset + 128.0).to(tl.bfloat16)
    elif FORMAT == "int4":
        return _whole(element, offset)
    elif FORMAT == "int8" and dtype == tl.float16:
        return ((element ^ 0x80).to(tl.int16) | 0x6400).to(tl.float16, bitcast=True) - 1152.0
    elif FORMAT == "16bit":
        return element.to(dtype)
    else:
        return _meaning(element, FORMAT).to(dtype)


@triton.jit
def _many(
    x, numbers, scales, zeros, first_row, num_rows, batch,
    INPUTS: tl.constexpr, ELEMENTS: tl.constexpr, FORMAT: tl.constexpr, RUN: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_J: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Some rows of up to 16 vectors' products in float32, [BLOCK_O, 16]: scaled where scales belong to groups."""
    TYPE: tl.constexpr = x.dtype.element_ty
    EACH: tl.constexpr = BLOCK_J // PARTS
    row_O = first_row + tl.arange(0, BLOCK_O)
    column_B = tl.arange(0, 16)
    part_S = tl.arange(0, PARTS)
    in_range_1O1 = (row_O < num_rows)[None, :, None]
    sum_SOB = tl.full((PARTS, BLOCK_O, 16), 0.0, tl.float32)
    for start in tl.range(0, ELEMENTS, BLOCK_J, num_stages=STAGES):
        j_SJ = start + part_S[:, None] * EACH + tl.arange(0, EACH)[None, :]
        at_SOJ = row_O.to(tl.int64)[None, :, None] * ELEMENTS + j_SJ[:, None, :]
        element_SOJ = tl.load(numbers + at_SOJ, mask=in_range_1O1 & (j_SJ < ELEMENTS)[:, None, :], other=0)
        if FORMAT == "int4":
            # A part is one chunk of 128 inputs: nibble k of its word j is input 16 k + j (operands.py).
            first_S = (start + part_S * EACH) * 8
            for k in tl.static_range(8):
                i_SJ = first_S[:, None] + 16 * k + tl.arange(0, EACH)[None, :]
                used_SJ = i_SJ < INPUTS
                if k % RUN == 0:  # otherwise the group is that of the last k
                    of_S = first_S + 16 * k
                    group_SO = (of_S // GROUP)[:, None] * num_rows + row_O[None, :]
                    has_SO = (of_S < INPUTS)[:, None] & (row_O < num_rows)[None, :]
                    scale_SO1 = tl.load(scales + group_SO, mask=has_SO, other=0.0).to(tl.float32)[:, :, None]
                    zero_SO1 = tl.load(zeros + group_SO, mask=has_SO, other=0).to(tl.float32)[:, :, None]
                    partial_SOB = tl.full((PARTS, BLOCK_O, 16), 0.0, tl.float32)
                w_SOJ = _exact((element_SOJ >> (4 * k)) & 15, zero_SO1, FORMAT, TYPE)
                at_SJB = column_B[None, None, :] * INPUTS + i_SJ[:, :, None]
                x_SJB = tl.load(x + at_SJB, mask=used_SJ[:, :, None] & (column_B < batch)[None, None, :], other=0.0)
                partial_SOB = tl.dot(w_SOJ, x_SJB, partial_SOB, input_precision="ieee")
                if k % RUN == RUN - 1:
                    sum_SOB += partial_SOB * scale_SO1
        else:
            at_SJB = column_B[None, None, :] * INPUTS + j_SJ[:, :, None]
            used_SJB = (j_SJ < INPUTS)[:, :, None] & (column_B < batch)[None, None, :]
            x_SJB = tl.load(x + at_SJB, mask=used_SJB, other=0.0)
            sum_SOB = tl.dot(_exact(element_SOJ, 0.0, FORMAT, TYPE), x_SJB, sum_SOB, input_precision="ieee")
    return tl.sum(sum_SOB, axis=0)


@triton.jit
def _rows(
    x, delta, weight, into, eps, writes, numbers, scales, zeros, first_row, num_rows, batch,
    NORM: tl.constexpr,
    INPUTS: tl.constexpr, ELEMENTS: tl.constexpr, FORMAT: tl.constexpr, RUN: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_J: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """[BLOCK_O, 1] where PARTS is 0, for one vector, else [BLOCK_O, 16]."""
    if PARTS == 0:
        y_OB = _one(
            x, delta, weight, into, eps, writes, numbers, scales, zeros, first_row, num_rows,
            NORM, INPUTS, ELEMENTS, FORMAT, RUN, GROUP, BLOCK_O, BLOCK_J, STAGES,
        )  # fmt: skip
    else:
        y_OB = _many(
            x, numbers, scales, zeros, first_row, num_rows, batch,
            INPUTS, ELEMENTS, FORMAT, RUN, GROUP, BLOCK_O, BLOCK_J, PARTS, STAGES,
        )  # fmt: skip
    return y_OB


@triton.jit
def _product(
    x, delta, weight, into, eps, numbers, scales, zeros, bias, y, num_rows, batch,
    NORM: tl.constexpr,
    INPUTS: tl.constexpr, ELEMENTS: tl.constexpr, FORMAT: tl.constexpr, RUN: tl.constexpr, GROUP: tl.constexpr,
    BIAS: tl.constexpr, SILU: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_J: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    first_row = tl.program_id(0) * BLOCK_O
    num_out = num_rows // 2 if SILU else num_rows
    row_O = first_row + tl.arange(0, BLOCK_O)
    y_OB = _rows(
        x, delta, weight, into, eps, tl.program_id(0) == 0, numbers, scales, zeros, first_row, num_rows, batch,
        NORM, INPUTS, ELEMENTS, FORMAT, RUN, GROUP, BLOCK_O, BLOCK_J, PARTS, STAGES,
    )  # fmt: skip
    by_row: tl.constexpr = FORMAT == "int8" or FORMAT == "fp8"  # noqa: PLR1714
    if by_row:
        y_OB *= tl.load(scales + row_O, mask=row_O < num_rows, other=0.0)[:, None]
    if BIAS:
        y_OB += tl.load(bias + row_O, mask=row_O < num_rows, other=0.0).to(tl.float32)[:, None]
    if SILU:
        up_OB = _rows(
            x, delta, weight, into, eps, False, numbers, scales, zeros, first_row + num_out, num_rows, batch,
            NORM, INPUTS, ELEMENTS, FORMAT, RUN, GROUP, BLOCK_O, BLOCK_J, PARTS, STAGES,
        )  # fmt: skip
        if by_row:
            up_OB *= tl.load(scales + num_out + row_O, mask=row_O < num_out, other=0.0)[:, None]
        y_OB = y_OB / (1.0 + tl.exp(-y_OB)) * up_OB
    column_B = tl.arange(0, 16 if PARTS else 1)
    at_OB = column_B.to(tl.int64)[None, :] * num_out + row_O[:, None]
    tl.store(y + at_OB, y_OB.to(y.dtype.element_ty), mask=(row_O < num_out)[:, None] & (column_B < batch)[None, :])


def num_parts(blocks: Blocks, w: Operand) -> int:
    """Into how many parts the inputs of a block are cut for several vectors: one for each warp, but of 4-bit words 16
    each, which is a chunk of 128 inputs with one scale.
    """
    return blocks.elements // 16 if w.format == "int4" else min(blocks.num_warps, blocks.elements // 16)


@dataclass(frozen=True, slots=True)
class Norm:
    """What one vector goes through before a product: RMSNorm(x + delta) times the weight (reference `Forward._norm`).
    The sum is written to `into`, which must not be x: other programs still read that.
    """

    delta_1I: Any | None
    weight_I: Any
    eps: float
    into_1I: Any


def product(
    x_BI: Any,
    w: Operand,
    y_BO: Any,
    blocks: Blocks,
    *,
    bias_O: Any | None = None,
    silu: bool = False,
    norm: Norm | None = None,
) -> None:
    """Write x W^T (+ bias) to `y_BO` in its type. With `silu` the rows of W are gate's, then up's, and y has half as
    many: silu(gate) x up. Vectors lie one after another; at most 16, and one where there is a norm.
    """
    batch, rows = x_BI.shape[0], w.shape[0]
    assert norm is None or batch == 1
    parts = num_parts(blocks, w) if batch > 1 else 0
    assert batch <= COLUMNS and x_BI.is_contiguous() and y_BO.is_contiguous()
    outputs = rows // 2 if silu else rows
    launch(
        _product, (triton.cdiv(outputs, blocks.rows),),
        x_BI, *((norm.delta_1I, norm.weight_I, norm.into_1I, norm.eps) if norm else (None, None, None, 0.0)),
        w.numbers, w.scales, w.zeros, bias_O, y_BO, rows, batch,
        NORM=0 if norm is None else 1 if norm.delta_1I is None else 2,
        INPUTS=w.shape[1], ELEMENTS=w.numbers.shape[1], FORMAT=w.format, RUN=w.run, GROUP=w.group_size,
        BIAS=bias_O is not None, SILU=silu, PARTS=parts,
        BLOCK_O=blocks.rows, BLOCK_J=blocks.elements, STAGES=blocks.num_stages,
        num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
