"""Matrices in the order in which a warp's lanes need them for products on tensor cores (kernels/step/product.cuh).

A tile is 16 rows with all their inputs. Lane 4 g + t of a warp holds rows g and g + 8, and of every 32 inputs the eight
from 8 t on, which it uses in two products of 16 inputs, four in each. In 16 bits a lane's 16 bytes are one product's.
In 8 bits (q + 128) they are those of 32 inputs, and after the tile's last input come 16 float32 scales. In 4 bits they
are those of 64, in words of eight inputs whose nibbles lie in the order 0 2 4 6 1 3 5 7, and after each group come 16
pairs of float16: scale, zero point.
Shapes: T tiles, Z bytes of a tile, C chunks of 32 inputs, G groups; within a tile h halves of 8 rows, g rows, t lanes
of a row, s products, p pairs, e the two numbers of a pair.
"""

from typing import Any

from bitbench.decode.matrix import Dense, Int4Groups, Int8Rows, Matrix

ROWS = 16
_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of the eight inputs of a word lies in each nibble, from the lowest."""


def tiles(matrix: Matrix) -> Any:
    """All tiles, uint8 [T, Z]; rows are filled up to whole tiles with zeros."""
    if isinstance(matrix, Dense):
        return _dense(matrix)
    if isinstance(matrix, Int8Rows):
        return _int8(matrix)
    assert isinstance(matrix, Int4Groups)
    return _int4(matrix)


def num_tiles(rows: int) -> int:
    """How many tiles hold so many rows."""
    return -(-rows // ROWS)


def _dense(matrix: Dense) -> Any:
    import torch

    w = _whole(matrix.weight_OI)
    w_ThgCtspe = w.reshape(-1, 2, 8, w.shape[1] // 32, 4, 2, 2, 2)
    return w_ThgCtspe.permute(0, 3, 5, 2, 4, 6, 1, 7).reshape(w.shape[0] // ROWS, -1).contiguous().view(torch.uint8)


def _int8(matrix: Int8Rows) -> Any:
    import torch

    q = _whole((matrix.q_OI.to(torch.int16) + 128).to(torch.uint8))
    q_ThgCt8 = q.reshape(-1, 2, 8, q.shape[1] // 32, 4, 8)
    numbers_TZ = q_ThgCt8.permute(0, 3, 2, 4, 1, 5).reshape(q.shape[0] // ROWS, -1)
    scales_TZ = _whole(matrix.scale_O.float()[:, None]).reshape(-1, ROWS).contiguous().view(torch.uint8)
    return torch.cat([numbers_TZ, scales_TZ], dim=1)


def _int4(matrix: Int4Groups) -> Any:
    import torch

    q = _whole(torch.stack((matrix.q_OP & 15, matrix.q_OP >> 4), dim=-1).reshape(matrix.shape[0], -1))
    size = matrix.group_size
    num_groups, num_tiles_ = q.shape[1] // size, q.shape[0] // ROWS
    q_ThgGCct8 = q.reshape(num_tiles_, 2, 8, num_groups, size // 64, 2, 4, 8)[..., list(_NIBBLES)]
    bytes_ThgGCct4 = q_ThgGCct8[..., 0::2] | (q_ThgGCct8[..., 1::2] << 4)
    numbers_TGZ = bytes_ThgGCct4.permute(0, 3, 4, 2, 6, 5, 1, 7).reshape(num_tiles_, num_groups, -1)
    pairs_RG2 = _whole(torch.stack((matrix.scale_OG.half(), matrix.zero_OG.half()), dim=-1))
    ends_TGR2 = pairs_RG2.reshape(num_tiles_, ROWS, num_groups, 2).permute(0, 2, 1, 3).contiguous()
    ends_TGZ = ends_TGR2.reshape(num_tiles_, num_groups, -1).view(torch.uint8)
    return torch.cat([numbers_TGZ, ends_TGZ], dim=2).reshape(num_tiles_, -1)


def _whole(rows: Any) -> Any:
    import torch

    missing = -rows.shape[0] % ROWS
    return torch.nn.functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing)) if missing else rows
