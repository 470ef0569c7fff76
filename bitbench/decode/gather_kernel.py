"""Launches kernels/step/gather.cu: a matrix out of the streams as 16-bit numbers in plain order, in one pass."""

from collections.abc import Mapping
from typing import Any

from bitbench.decode.cuda_source import Arguments, compiled
from bitbench.decode.matrix import Dense, Int4Groups, Matrix
from bitbench.decode.tiles import BITS

FILE = "gather.cu"
_WARPS = 8
"""Of a block."""
_MOST_BLOCKS = 4096


def macros(kind: type[Matrix], stored: Any, unit: int, dtype: Any) -> dict[str, str] | None:
    """What the kernel must be compiled with for matrices of this kind, whose 16-bit numbers are `stored`, as `dtype`;
    None where it does not make that of them.
    """
    import torch

    if dtype not in (torch.float16, torch.bfloat16) or (kind is Dense and stored != dtype):
        return None
    if kind is Int4Groups and dtype != torch.float16:
        return None
    return {"BITS": str(BITS[kind]), "UNIT": str(unit), "BF16": str(int(dtype == torch.bfloat16))}


def arguments(packed: Any, units_TU: Any, ends_T: Any, out_OI: Any, *, num_parts: int, pairs: int) -> dict[str, Any]:
    """The kernel's, for these tiles of a matrix: where they and their units begin, in words of 16 bytes, int64."""
    return {
        "packed": packed,
        "units": units_TU.contiguous(),
        "ends": ends_T.contiguous(),
        "out": out_OI,
        "num_tiles": units_TU.shape[0],
        "num_units": units_TU.shape[1],
        "part_tiles": units_TU.shape[0] // num_parts,
        "inputs": out_OI.shape[1],
        "num_rows": out_OI.shape[0],
        "pairs": pairs,
    }


def launch(given: Arguments, options: Mapping[str, str]) -> None:
    """On the GPU on which the tensors are."""
    blocks = min(_MOST_BLOCKS, -(-given["num_tiles"] * given["num_units"] // _WARPS))
    compiled(FILE, "gather_matrix", options, str(given["packed"].device))(blocks, 32 * _WARPS, given)
