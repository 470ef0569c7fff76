"""Residual sum and RMSNorm in one, reference `Forward._norm`. Shapes: B sequences, H hidden size."""

from typing import Any

import triton
import triton.language as tl

from bitbench.decode.kernels.triton.launching import launch


@triton.jit
def _add_norm(x, delta, weight, normed, eps, HIDDEN: tl.constexpr, DELTA: tl.constexpr, BLOCK_H: tl.constexpr):
    """One sequence. Rounded where the plain decoder rounds: the sum, the scaled vector, the product."""
    i_H = tl.arange(0, BLOCK_H)
    used_H = i_H < HIDDEN
    at_H = tl.program_id(0) * HIDDEN + i_H
    x_H = tl.load(x + at_H, mask=used_H, other=0.0)
    if DELTA:
        x_H = (x_H.to(tl.float32) + tl.load(delta + at_H, mask=used_H, other=0.0).to(tl.float32)).to(x_H.dtype)
        tl.store(x + at_H, x_H, mask=used_H)
    x32_H = x_H.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x32_H * x32_H, axis=0) / HIDDEN + eps)
    scaled_H = (x32_H * scale).to(x_H.dtype).to(tl.float32)
    weight_H = tl.load(weight + i_H, mask=used_H, other=0.0).to(tl.float32)
    tl.store(normed + at_H, (weight_H * scaled_H).to(x_H.dtype), mask=used_H)


def add_norm(x_BH: Any, delta_BH: Any | None, weight_H: Any, normed_BH: Any, eps: float, *, num_warps: int) -> None:
    """Add `delta_BH` to `x_BH`, where there is one, in place; write RMSNorm(x) times the weight to `normed_BH`."""
    batch, hidden = x_BH.shape
    launch(
        _add_norm, (batch,),
        x_BH, delta_BH, weight_H, normed_BH, eps,
        HIDDEN=hidden, DELTA=delta_BH is not None, BLOCK_H=triton.next_power_of_2(hidden), num_warps=num_warps,
    )  # fmt: skip
