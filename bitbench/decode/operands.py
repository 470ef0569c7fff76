"""Matrices as the Triton products read them (kernels/triton/products.py), and what attention keeps in between.

16- and 8-bit numbers stay where they are. 4-bit numbers are packed anew, eight in a word, so that each of the eight
meets neighbouring inputs: nibble k, from the lowest, of word j of a chunk of 128 inputs is input 16 k + j of it; inputs
are filled up to whole chunks. Shapes: O outputs, I inputs, G groups of inputs, C chunks, J elements of a row.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from bitbench.decode.matrix import Dense, Fp8Rows, Int4Groups, Int8Rows, Matrix
from bitbench.facts.errors import Unsupported

CHUNK = 128
_SLICE = 16
"""Neighbouring inputs that the same nibble of neighbouring words holds."""
_SHIFTED = 256
"""E4M3's bits in those of a half with the same exponent field are a number so many times smaller: 2 to 15 - 7."""
Format = Literal["16bit", "int8", "fp8", "int4"]
FORMATS: dict[type[Matrix], Format] = {Dense: "16bit", Int8Rows: "int8", Fp8Rows: "fp8", Int4Groups: "int4"}


@dataclass(frozen=True, slots=True)
class Operand:
    """`numbers` [O, J]; `scales` float32 [O] for 8 bits, and for 4 bits like `zeros` [G, O]; None where there are none.

    `run` is after how many slices of 16 inputs, at the earliest, a chunk's group changes (8: not within a chunk).
    """

    format: Format
    shape: tuple[int, int]
    numbers: Any
    scales: Any | None = None
    zeros: Any | None = None
    group_size: int = CHUNK
    run: int = CHUNK // _SLICE


@dataclass(frozen=True, slots=True)
class Parts:
    """What the programs that share a head leave behind (kernels/triton/attention.py), float32: sums [B, N, P, D],
    maxima and totals [B, N, P] of B sequences, N query heads, P parts, D head size.
    """

    sums: Any
    maxima: Any
    totals: Any


def new_parts(batch_size: int, num_heads: int, head_dim: int, num_parts: int, device: str) -> Parts:
    """Room for them."""
    import torch

    shape = (batch_size, num_heads, num_parts)
    return Parts(*(torch.empty(s, device=device) for s in ((*shape, head_dim), shape, shape)))


def operand(matrix: Matrix) -> Operand:
    """Raises Unsupported for groups that the kernel cannot read."""
    import torch

    matrix = matrix.plain()
    if isinstance(matrix, Dense):
        return Operand("16bit", matrix.shape, matrix.weight_OI.contiguous())
    if isinstance(matrix, Int8Rows):
        return Operand("int8", matrix.shape, matrix.q_OI.contiguous().view(torch.uint8), matrix.scale_O.float())
    if isinstance(matrix, Fp8Rows):
        return Operand("fp8", matrix.shape, matrix.bits_OI.contiguous(), matrix.scale_O.float() * _SHIFTED)
    assert isinstance(matrix, Int4Groups)
    size = matrix.group_size
    if size % _SLICE:
        raise Unsupported(f"the Triton kernels need groups of a multiple of {_SLICE}, not {size}")
    scales_GO, zeros_GO = matrix.scale_OG.T.contiguous(), matrix.zero_OG.T.contiguous()
    run = math.gcd(size, CHUNK) // _SLICE
    return Operand("int4", matrix.shape, words(matrix.q_OP), scales_GO, zeros_GO, size, run)


def words(q_OP: Any) -> Any:
    """Two neighbouring 4-bit numbers in a byte to words, int32 [O, 16 C]."""
    import torch

    # A few rows at a time: the numbers one by one take eight times as much memory as packed ones.
    return torch.cat([_words(part_OP) for part_OP in q_OP.split(4096)])


def _words(q_OP: Any) -> Any:
    import torch

    q_OI = torch.stack((q_OP & 15, q_OP >> 4), dim=-1).flatten(1).to(torch.int32)
    filled_OI = torch.nn.functional.pad(q_OI, (0, -q_OI.shape[1] % CHUNK))
    q_OCKJ = filled_OI.reshape(len(filled_OI), -1, CHUNK // _SLICE, _SLICE)
    shifts_K1 = 4 * torch.arange(CHUNK // _SLICE, dtype=torch.int32, device=q_OP.device)[:, None]
    # Different nibbles: their sum is their union.
    return (q_OCKJ << shifts_K1).sum(dim=2, dtype=torch.int32).flatten(1)
