"""Matrices in the order in which a warp's lanes need them for products on tensor cores (kernels/step/tile.cuh).

A tile is 16 rows with all their inputs, cut into units of neighbouring inputs. Lane 4 g + t of a warp holds rows g and
g + 8, and of every 32 inputs the eight from 8 t on, which it uses in two products of 16 inputs, four in each. In 16
bits a lane's 16 bytes are one product's. In 8 bits (q + 128) they are those of 32 inputs; 16 float32 scales belong to
the whole tile. In 4 bits they are those of 64, in words of eight inputs whose nibbles lie in the order 0 4 2 6 1 5 3 7;
a unit is a group and ends with pairs of float16, scale and zero point, of rows 0, 8, 1, 9 and so on.
Shapes: T tiles, U units, Z bytes of a part; C chunks of 32 inputs; within a tile h halves of 8 rows, g rows, t lanes of
a row, s products, p pairs, e the two numbers of a pair.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bitbench.decode.matrix import Dense, Int4Groups, Int8Rows, Matrix

ROWS = 16
MOST_TILES = 8
"""At most so many are multiplied between two synchronisations (TILES of product.cuh)."""
BITS: dict[type[Matrix], int] = {Dense: 16, Int8Rows: 8, Int4Groups: 4}
"""Of a number in a tile, by how the matrix is stored."""
_NIBBLES = (0, 4, 2, 6, 1, 5, 3, 7)
"""Which of the eight inputs of a word lies in each nibble, from the lowest."""


@dataclass(frozen=True, slots=True)
class Parts:
    """All tiles of a matrix: their units, uint8 [T, U, Z], and what belongs to whole tiles, uint8 [T, Z]."""

    units_TUZ: Any
    ends_TZ: Any

    @property
    def num_tiles(self) -> int:
        """The matrix's rows over 16, rounded up."""
        return int(self.units_TUZ.shape[0])

    @property
    def tile_bytes(self) -> int:
        """Of one tile."""
        return int(self.units_TUZ.shape[1] * self.units_TUZ.shape[2] + self.ends_TZ.shape[1])

    def batch(self, num_warps: int, most_bytes: int, most_tiles: int) -> int:
        """How many tiles are waited for at once, of `most_tiles` that a block has at most: up to MOST_TILES, and with
        the units that the warps have at a time (Tile::segment of tile.cuh) not more than so many bytes, if more than
        one. An eighth more may be where no further batch of whole tiles has to come meanwhile.
        """
        units, unit_bytes = int(self.units_TUZ.shape[1]), int(self.units_TUZ.shape[2])
        rounds, most = -(-units // num_warps), min(4, max(1, most_bytes // (num_warps * unit_bytes)))
        segment = min(units, -(-rounds // -(-rounds // most)) * num_warps) * unit_bytes
        found = most_bytes * 9 // 8 // segment
        if segment == units * unit_bytes and found < most_tiles:
            found = most_bytes // segment
        return max(1, min(MOST_TILES, found))

    def batch_bytes(self, first: int, count: int) -> tuple[Any, Any]:
        """A batch of tiles as a stream holds it: unit after unit of all of them, then what belongs to tiles."""
        tiles = slice(first, first + count)
        return self.units_TUZ[tiles].transpose(0, 1).flatten(), self.ends_TZ[tiles].flatten()


def batched(first: int, count: int, batch: int) -> Iterator[tuple[int, int]]:
    """First and number of each batch of some tiles."""
    return ((start, min(batch, first + count - start)) for start in range(first, first + count, batch))


def num_tiles(rows: int) -> int:
    """How many tiles hold so many rows."""
    return -(-rows // ROWS)


def unit_inputs(inputs: Iterable[int], group_size: int) -> int:
    """Inputs of a unit that suits matrices with so many inputs: a group where there are groups."""
    return group_size or next(size for size in (128, 64, 32) if all(n % size == 0 for n in inputs))


def parts(matrix: Matrix, unit: int) -> Parts:
    """In units of so many inputs; rows are filled up to whole tiles with zeros."""
    if isinstance(matrix, Dense):
        return _dense(matrix, unit)
    if isinstance(matrix, Int8Rows):
        return _int8(matrix, unit)
    assert isinstance(matrix, Int4Groups) and matrix.group_size % unit == 0
    return _int4(regrouped(matrix, unit))


def _dense(matrix: Dense, unit: int) -> Parts:
    import torch

    w = _whole(matrix.weight_OI)
    count, chunks = w.shape[0] // ROWS, w.shape[1] // 32
    w_ThgCtspe = w.reshape(count, 2, 8, chunks, 4, 2, 2, 2)
    in_order = w_ThgCtspe.permute(0, 3, 5, 2, 4, 6, 1, 7).reshape(count, w.shape[1] // unit, -1)
    return Parts(in_order.contiguous().view(torch.uint8), _no_ends(w, count))


def _int8(matrix: Int8Rows, unit: int) -> Parts:
    import torch

    q = _whole((matrix.q_OI.to(torch.int16) + 128).to(torch.uint8))
    count = q.shape[0] // ROWS
    q_ThgCt8 = q.reshape(count, 2, 8, q.shape[1] // 32, 4, 8)
    units_TUZ = q_ThgCt8.permute(0, 3, 2, 4, 1, 5).reshape(count, q.shape[1] // unit, -1)
    scales_TZ = _whole(matrix.scale_O.float()[:, None]).reshape(count, ROWS).contiguous().view(torch.uint8)
    return Parts(units_TUZ, scales_TZ)


def _int4(matrix: Int4Groups) -> Parts:
    import torch

    q = _whole(torch.stack((matrix.q_OP & 15, matrix.q_OP >> 4), dim=-1).reshape(matrix.shape[0], -1))
    size = matrix.group_size
    num_groups, count = q.shape[1] // size, q.shape[0] // ROWS
    q_ThgUCct8 = q.reshape(count, 2, 8, num_groups, size // 64, 2, 4, 8)[..., list(_NIBBLES)]
    bytes_ThgUCct4 = q_ThgUCct8[..., 0::2] | (q_ThgUCct8[..., 1::2] << 4)
    numbers_TUZ = bytes_ThgUCct4.permute(0, 3, 4, 2, 6, 5, 1, 7).reshape(count, num_groups, -1)
    pairs_RU2 = _whole(torch.stack((matrix.scale_OG.half(), matrix.zero_OG.half()), dim=-1))
    pairs_ThgU2 = pairs_RU2.reshape(count, 2, 8, num_groups, 2)
    ends_TUZ = pairs_ThgU2.permute(0, 3, 2, 1, 4).reshape(count, num_groups, -1).contiguous().view(torch.uint8)
    return Parts(torch.cat([numbers_TUZ, ends_TUZ], dim=2), _no_ends(q, count))


def unpacked(kind: type[Matrix], units_TUZ: Any, ends_TZ: Any, unit: int, dtype: Any) -> Matrix:
    """The matrix of some tiles, of which `parts` made these bytes; `dtype` is that of 16-bit numbers. INT4's groups are
    units.
    """
    count, inputs = units_TUZ.shape[0], units_TUZ.shape[1] * unit
    if kind is Dense:
        in_order_TCsgtphe = units_TUZ.contiguous().view(dtype).reshape(count, inputs // 32, 2, 8, 4, 2, 2, 2)
        return Dense(in_order_TCsgtphe.permute(0, 6, 3, 1, 4, 2, 5, 7).reshape(count * ROWS, inputs))
    if kind is Int8Rows:
        import torch

        q_TCgth8 = units_TUZ.reshape(count, inputs // 32, 8, 4, 2, 8)
        q_OI = q_TCgth8.permute(0, 4, 2, 1, 3, 5).reshape(count * ROWS, inputs)
        # q + 128 less 128: both are the same bits but for the highest.
        return Int8Rows((q_OI ^ 128).view(torch.int8), ends_TZ.contiguous().view(torch.float32).flatten())
    assert kind is Int4Groups
    return _groups(units_TUZ, unit)


def _groups(units_TUZ: Any, unit: int) -> Int4Groups:
    import torch

    count, num_groups = units_TUZ.shape[:2]
    numbers_TUZ, ends_TUZ = units_TUZ.split([ROWS * unit // 2, 4 * ROWS], dim=2)
    bytes_TUCgtch4 = numbers_TUZ.reshape(count, num_groups, unit // 64, 8, 4, 2, 2, 4)
    bytes_ThgUCct4 = bytes_TUCgtch4.permute(0, 6, 3, 1, 2, 5, 4, 7)
    # The lower nibbles of a word's bytes are inputs 0, 2, 1 and 3, the higher ones 4, 6, 5 and 7 (_NIBBLES).
    low, high = bytes_ThgUCct4 & 15, bytes_ThgUCct4 >> 4
    even = torch.cat((low[..., :2], high[..., :2]), dim=-1)
    odd = torch.cat((low[..., 2:], high[..., 2:]), dim=-1)
    q_OP = (even | (odd << 4)).reshape(count * ROWS, -1)
    pairs_TUgh2 = ends_TUZ.contiguous().view(torch.float16).reshape(count, num_groups, 8, 2, 2)
    pairs_OG2 = pairs_TUgh2.permute(0, 3, 2, 1, 4).reshape(count * ROWS, num_groups, 2)
    return Int4Groups(q_OP, pairs_OG2[..., 0].contiguous(), pairs_OG2[..., 1].to(torch.uint8))


def regrouped(matrix: Int4Groups, size: int) -> Int4Groups:
    """The same numbers in smaller groups."""
    times = matrix.group_size // size
    scale_OG, zero_OG = (part.repeat_interleave(times, dim=1) for part in (matrix.scale_OG, matrix.zero_OG))
    return Int4Groups(matrix.q_OP, scale_OG, zero_OG)


def _no_ends(like: Any, count: int) -> Any:
    import torch

    return torch.empty(count, 0, dtype=torch.uint8, device=like.device)


def _whole(rows: Any) -> Any:
    import torch

    missing = -rows.shape[0] % ROWS
    return torch.nn.functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing)) if missing else rows
