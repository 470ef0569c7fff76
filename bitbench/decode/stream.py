"""Weights in the order in which the step kernel reads them: for each block one stream of bytes.

What a block reads in a step follows in its stream without gaps, layer by layer its tiles of q, k, v | o | gate and up |
down, and after the last layer those of lm_head (tiles.py, deal.py).
"""

from dataclasses import dataclass
from typing import Any

from bitbench.decode.config import DecoderConfig
from bitbench.decode.deal import Range, Share, Tiles, deal, down_parts
from bitbench.decode.matrix import Dense, Int4Groups, Int8Rows, Matrix
from bitbench.decode.tiles import tiles
from bitbench.decode.weights import LayerWeights, Weights

GRANULE = 8192
"""Streams are copied in pieces of this size, so they are padded to a multiple of it."""


@dataclass(frozen=True, slots=True)
class Streams:
    """`packed`: uint8 [blocks, bytes]. `num_granules` and `head_offset` say of each block how long its stream is, and
    where in it lm_head begins.
    """

    packed: Any
    shares: tuple[Share, ...]
    num_granules: tuple[int, ...]
    head_offset: tuple[int, ...]
    num_down_parts: int


def streams(weights: Weights, config: DecoderConfig, num_blocks: int) -> Streams:
    """The streams of all blocks. Raises ValueError for more blocks than tiles of gate and up."""
    import torch

    parts = down_parts(config.hidden_size, config.intermediate_size, config.group_size or 32, num_blocks)
    pieces: list[list[Any]] = [[] for _ in range(num_blocks)]
    shares: list[Share] | None = None
    for layer in weights.layers:
        matrices = _of_layer(layer, config, parts)
        if shares is None:
            head_TZ = tiles(weights.head)
            shares = deal({name: _size(t) for name, t in (matrices | {"head": head_TZ}).items()}, num_blocks)
        for name, tiles_TZ in matrices.items():
            for block, share in enumerate(shares):
                pieces[block].append(_cut(tiles_TZ, getattr(share, name)))
    assert shares is not None
    offsets = [sum(piece.numel() for piece in mine) for mine in pieces]
    for mine, share in zip(pieces, shares, strict=True):
        mine.append(_cut(head_TZ, share.head))
    sizes = [-(-sum(piece.numel() for piece in mine) // GRANULE) for mine in pieces]
    packed = torch.zeros(num_blocks, max(sizes) * GRANULE, dtype=torch.uint8, device=weights.final_norm.device)
    for row, mine in zip(packed, pieces, strict=True):
        at = 0
        for piece in mine:
            row[at : at + piece.numel()] = piece
            at += piece.numel()
        mine.clear()
    return Streams(packed, tuple(shares), tuple(sizes), tuple(offsets), parts)


def _of_layer(layer: LayerWeights, config: DecoderConfig, parts: int) -> dict[str, Any]:
    """The tiles of a layer's matrices, uint8 [T, Z] each, in the order of reading; keys are fields of Share."""
    import torch

    inputs = config.intermediate_size // parts
    # Eight rows of gate, then the same eight of up, so that both meet in one tile.
    order = torch.arange(2 * config.intermediate_size).reshape(2, -1, 8).transpose(0, 1).flatten()
    return {
        "qkv": tiles(layer.qkv),
        "o": tiles(layer.o),
        "gate_up": tiles(_rows(layer.gate_up, order)),
        "down": torch.cat([tiles(_inputs(layer.down, i * inputs, (i + 1) * inputs)) for i in range(parts)]),
    }


def _size(tiles_TZ: Any) -> Tiles:
    return Tiles(tiles_TZ.shape[0], tiles_TZ.shape[1])


def _cut(tiles_TZ: Any, part: Range) -> Any:
    return tiles_TZ[part.first : part.first + part.count].flatten()


def _rows(matrix: Matrix, index: Any) -> Matrix:
    """Some rows, in this order, stored as they were."""
    if isinstance(matrix, Dense):
        return Dense(matrix.weight_OI[index])
    if isinstance(matrix, Int8Rows):
        return Int8Rows(matrix.q_OI[index], matrix.scale_O[index])
    assert isinstance(matrix, Int4Groups)
    return Int4Groups(matrix.q_OP[index], matrix.scale_OG[index], matrix.zero_OG[index])


def _inputs(matrix: Matrix, first: int, end: int) -> Matrix:
    """Some neighbouring inputs, whole groups of them, stored as they were."""
    if isinstance(matrix, Dense):
        return Dense(matrix.weight_OI[:, first:end])
    if isinstance(matrix, Int8Rows):
        return Int8Rows(matrix.q_OI[:, first:end], matrix.scale_O)
    assert isinstance(matrix, Int4Groups)
    size = matrix.group_size
    groups = slice(first // size, end // size)
    return Int4Groups(matrix.q_OP[:, first // 2 : end // 2], matrix.scale_OG[:, groups], matrix.zero_OG[:, groups])
