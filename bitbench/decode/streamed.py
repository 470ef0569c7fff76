"""A matrix that lies in the step kernel's streams and nowhere else: for prompts its tiles are gathered again, on a GPU
by a kernel.

Shapes as in tiles.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bitbench.decode import gather_kernel
from bitbench.decode.matrix import Dense, Int4Groups, Int8Rows, Matrix, with_rows
from bitbench.decode.tiles import ROWS, unpacked

_WORD = 16
"""Bytes that are gathered at a time: all parts of a stream are multiples of it."""
_TILES_AT_ONCE = 1024
"""Of a matrix with more, such as lm_head, so many are unpacked at a time."""


@dataclass(slots=True)
class Places:
    """Where the batches of a matrix's tiles begin, in bytes of all streams, and how many tiles each has."""

    starts: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def add(self, start: int, count: int) -> None:
        """The next batch."""
        self.starts.append(start)
        self.counts.append(count)

    def of_tiles(self, num_units: int, unit_bytes: int, end_bytes: int, device: Any) -> tuple[Any, Any]:
        """Words at which each unit of each tile begins, int64 [T, U], and what belongs to the tile, [T]."""
        import torch

        counts = torch.tensor(self.counts)
        start_T, count_T = (torch.tensor(of).repeat_interleave(counts) for of in (self.starts, self.counts))
        number_T = torch.cat([torch.arange(count) for count in self.counts])
        units_TU = start_T[:, None] + (torch.arange(num_units) * count_T[:, None] + number_T[:, None]) * unit_bytes
        ends_T = start_T + count_T * num_units * unit_bytes + number_T * end_bytes
        return (units_TU // _WORD).to(device), (ends_T // _WORD).to(device)


@dataclass(frozen=True, slots=True)
class Streamed:
    """`packed`: all streams, uint8. `dtype` is that of 16-bit numbers, `unit` the inputs of a unit. `num_parts`: into
    how many its inputs are cut, one part's tiles after another's. `pairs`: if not 0, so many rows of two matrices, of
    which eight and eight lie in a tile. `units_TU` and `ends_T` are of Places.
    """

    packed: Any
    kind: type[Matrix]
    shape: tuple[int, int]
    num_bytes: int
    dtype: Any
    unit: int
    num_parts: int
    pairs: int
    units_TU: Any
    ends_T: Any
    unit_bytes: int
    end_bytes: int

    def plain(self) -> Matrix:
        """With memory of its own."""
        return self._plain(slice(None), self.shape[0])

    def dequantized(self) -> Any:
        """As of the plain one."""
        return self.plain().dequantized()

    def in_type(self, dtype: Any) -> Any:
        """As of the plain one."""
        return self._in_type(slice(None), self.shape[0], dtype)

    def in_pieces(self, dtype: Any) -> Iterator[Any]:
        """As of the plain one, some rows at a time where there are very many."""
        count = self.units_TU.shape[0]
        if count <= _TILES_AT_ONCE or self.num_parts > 1 or self.pairs:
            yield self.in_type(dtype)
            return
        for first in range(0, count, _TILES_AT_ONCE):
            left = self.shape[0] - ROWS * first
            yield self._in_type(slice(first, first + _TILES_AT_ONCE), min(left, ROWS * _TILES_AT_ONCE), dtype)

    def rows(self, index_N: Any) -> Any:
        """As of the plain one, by the tiles that they lie in."""
        import torch

        assert self.num_parts == 1 and not self.pairs
        found = []
        for index in index_N.split(_TILES_AT_ONCE):
            tiles = self._of_tiles(index // ROWS)
            found.append(tiles.rows(torch.arange(len(index), device=index.device) * ROWS + index % ROWS))
        return torch.cat(found)

    def _in_type(self, tiles: slice, num_rows: int, dtype: Any) -> Any:
        """Of all tiles, or some of a matrix that is neither cut nor of pairs: [num_rows, I]."""
        import torch

        options = gather_kernel.macros(self.kind, self.dtype, self.unit, dtype) if self.packed.is_cuda else None
        if options is None:
            return self._plain(tiles, num_rows).in_type(dtype)
        out_OI = torch.empty(num_rows, self.shape[1], dtype=dtype, device=self.packed.device)
        gather_kernel.launch(self.gathering(tiles, out_OI), options)
        return out_OI

    def gathering(self, tiles: slice, out_OI: Any) -> dict[str, Any]:
        """The arguments of gather_kernel for `_in_type`."""
        units_TU, ends_T = self.units_TU[tiles], self.ends_T[tiles]
        return gather_kernel.arguments(
            self.packed, units_TU, ends_T, out_OI, num_parts=self.num_parts, pairs=self.pairs
        )

    def _plain(self, tiles: slice, num_rows: int) -> Matrix:
        found = self._of_tiles(tiles)
        return _first_rows(_apart(found, self.pairs) if self.pairs else found, num_rows)

    def _of_tiles(self, tiles: Any) -> Matrix:
        units_TUZ = self._gathered(self.units_TU[tiles], self.unit_bytes)
        ends_TZ = self._gathered(self.ends_T[tiles], self.end_bytes)
        parts = [
            unpacked(self.kind, units, ends, self.unit, self.dtype)
            for units, ends in zip(units_TUZ.chunk(self.num_parts), ends_TZ.chunk(self.num_parts), strict=True)
        ]
        return parts[0] if len(parts) == 1 else _side_by_side(parts)

    def _gathered(self, words: Any, num_bytes: int) -> Any:
        """uint8 [..., num_bytes] from each of these words on."""
        import torch

        index = words[..., None] + torch.arange(num_bytes // _WORD, device=words.device)
        pairs = self.packed.view(torch.int64).view(-1, 2).index_select(0, index.flatten())
        return pairs.view(torch.uint8).reshape(*words.shape, num_bytes)


def _first_rows(matrix: Matrix, count: int) -> Matrix:
    return with_rows(matrix, lambda rows: rows[:count])


def _apart(matrix: Matrix, pairs: int) -> Matrix:
    """Eight rows of one and eight of the other in turn, to all of the one and then all of the other."""
    return with_rows(
        matrix, lambda rows: rows[: 2 * pairs].reshape(-1, 2, 8, *rows.shape[1:]).transpose(0, 1).flatten(0, 2)
    )


def _side_by_side(parts: list[Matrix]) -> Matrix:
    """The inputs of one behind those of another."""
    import torch

    first = parts[0]
    if isinstance(first, Dense):
        return Dense(torch.cat([p.weight_OI for p in parts if isinstance(p, Dense)], dim=1))
    if isinstance(first, Int8Rows):
        return Int8Rows(torch.cat([p.q_OI for p in parts if isinstance(p, Int8Rows)], dim=1), first.scale_O)
    groups = [p for p in parts if isinstance(p, Int4Groups)]
    names = ("q_OP", "scale_OG", "zero_OG")
    return Int4Groups(*(torch.cat([getattr(p, name) for p in groups], dim=1) for name in names))
