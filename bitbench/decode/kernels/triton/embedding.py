"""Looking up the tokens' rows, reference `Matrix.rows`. Shapes: B sequences, H hidden size."""

from typing import Any

import triton
import triton.language as tl

from bitbench.decode.kernels.triton.launching import launch
from bitbench.decode.kernels.triton.products import _meaning
from bitbench.decode.operands import Operand


@triton.jit
def _embed(
    token, numbers, scales, x, HIDDEN: tl.constexpr, FORMAT: tl.constexpr, SCALED: tl.constexpr, BLOCK_H: tl.constexpr
):
    sequence = tl.program_id(0)
    i_H = tl.arange(0, BLOCK_H)
    row = tl.load(token + sequence).to(tl.int64)
    x_H = _meaning(tl.load(numbers + row * HIDDEN + i_H, mask=i_H < HIDDEN, other=0), FORMAT)
    if SCALED:
        x_H *= tl.load(scales + row)
    tl.store(x + sequence * HIDDEN + i_H, x_H.to(x.dtype.element_ty), mask=i_H < HIDDEN)


def embed(token_B: Any, table: Operand, x_BH: Any, num_warps: int) -> None:
    """Write the rows of the tokens, int64 or int32, to `x_BH`. The table has 16 or 8 bits a number."""
    assert table.format != "int4"
    batch, hidden = x_BH.shape
    launch(
        _embed, (batch,),
        token_B, table.numbers, table.scales, x_BH,
        HIDDEN=hidden, FORMAT=table.format, SCALED=table.scales is not None,
        BLOCK_H=triton.next_power_of_2(hidden), num_warps=num_warps,
    )  # fmt: skip
