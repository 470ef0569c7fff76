"""Weights in the order in which the step kernel reads them: for each block one stream of bytes.

What a block reads in a step follows in its stream without gaps, layer by layer its tiles of q, k, v | o | gate and up |
down, and after the last layer those of lm_head (tiles.py, deal.py). Down is cut into
parts of its inputs; a block has tiles of one part only.
"""

from dataclasses import dataclass
from typing import Any

from bitbench.decode.config import DecoderConfig
from bitbench.decode.deal import Share, Tiles, deal, down_parts
from bitbench.decode.matrix import Dense, Int4Groups, Int8Rows, Matrix
from bitbench.decode.tiles import Parts, parts, regrouped, unit_inputs
from bitbench.decode.weights import LayerWeights, Weights

GRANULE = 8192
"""Streams are copied in pieces of this size, so they are padded to a multiple of it."""


@dataclass(frozen=True, slots=True)
class Streams:
    """`packed`: uint8 [blocks, bytes]. `batches` are by the fields of Share. `num_granules` and `head_offset` say of
    each block how long its stream is, and where in it lm_head begins.
    """

    packed: Any
    shares: tuple[Share, ...]
    batches: dict[str, int]
    num_granules: tuple[int, ...]
    head_offset: tuple[int, ...]
    cuts: "Cuts"


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks that multiply: how many, the warps of each that do, and how many bytes these may work on at once."""

    count: int
    num_warps: int
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Cuts:
    """Into how many parts the inputs of o and down are cut; inputs of a unit in the layers, in o and in lm_head."""

    o_parts: int
    down_parts: int
    unit: int
    o_unit: int
    head_unit: int


def cuts(weights: Weights, config: DecoderConfig, blocks: Blocks, o_parts: int) -> Cuts:
    """How this model's matrices are cut for so many blocks."""
    group = config.group_size
    down = down_parts(config.hidden_size, config.intermediate_size, group or 32, blocks.count)
    unit = unit_inputs((config.hidden_size, config.intermediate_size // down), group)
    head = unit_inputs((config.hidden_size,), group if isinstance(weights.head, Int4Groups) else 0)
    # A group of 4-bit weights may be cut, for the numbers of a key head are seldom whole groups.
    return Cuts(o_parts, down, unit, unit_inputs((config.q_size // o_parts, group or 128), 0), head)


def streams(weights: Weights, config: DecoderConfig, blocks: Blocks, o_parts: int) -> Streams:
    """The streams of all blocks. Raises ValueError for more blocks than tiles of gate and up."""
    how = cuts(weights, config, blocks, o_parts)
    pieces: list[list[Any]] = [[] for _ in range(blocks.count)]
    shares: list[Share] = []
    batches: dict[str, int] = {}

    def append(found: dict[str, Parts]) -> None:
        for name, matrix in found.items():
            batches[name] = matrix.batch(blocks.num_warps, blocks.most_bytes)
            for mine, share in zip(pieces, shares, strict=True):
                part = getattr(share, name)
                mine.extend(matrix.stream(part.first, part.count, batches[name]))

    head = {"head": parts(weights.head, how.head_unit)}
    for layer in weights.layers:
        matrices = _of_layer(layer, config, how)
        if not shares:
            sizes = {name: Tiles(p.num_tiles, p.tile_bytes) for name, p in (matrices | head).items()}
            shares = deal(sizes, blocks.count, how.o_parts)
        append(matrices)
    offsets = [sum(piece.numel() for piece in mine) for mine in pieces]
    append(head)
    packed, lengths = _joined(pieces, weights.final_norm.device)
    return Streams(packed, tuple(shares), batches, lengths, tuple(offsets), how)


def _joined(pieces: list[list[Any]], device: Any) -> tuple[Any, tuple[int, ...]]:
    """Each block's pieces one after another in a row, uint8 [blocks, bytes], and granules each row fills."""
    import torch

    lengths = [-(-sum(piece.numel() for piece in mine) // GRANULE) for mine in pieces]
    packed = torch.zeros(len(pieces), max(lengths) * GRANULE, dtype=torch.uint8, device=device)
    for row, mine in zip(packed, pieces, strict=True):
        at = 0
        for piece in mine:
            row[at : at + piece.numel()] = piece
            at += piece.numel()
        mine.clear()
    return packed, tuple(lengths)


def _of_layer(layer: LayerWeights, config: DecoderConfig, how: Cuts) -> dict[str, Parts]:
    """The tiles of a layer's matrices in the order of reading; keys are fields of Share."""
    import torch

    # Eight rows of gate, then the same eight of up, so that both meet in one tile.
    order = torch.arange(2 * config.intermediate_size).reshape(2, -1, 8).transpose(0, 1).flatten()
    return {
        "qkv": parts(layer.qkv, how.unit),
        "o": _in_parts(layer.o, how.o_parts, how.o_unit),
        "gate_up": parts(_rows(layer.gate_up, order), how.unit),
        "down": _in_parts(layer.down, how.down_parts, how.unit),
    }


def _in_parts(matrix: Matrix, num_parts: int, unit: int) -> Parts:
    """The tiles of each part of the inputs, one part's after another's."""
    import torch

    inputs = matrix.shape[1] // num_parts
    found = [parts(_inputs(matrix, i * inputs, (i + 1) * inputs, unit), unit) for i in range(num_parts)]
    return Parts(torch.cat([p.units_TUZ for p in found]), torch.cat([p.ends_TZ for p in found]))


def _rows(matrix: Matrix, index: Any) -> Matrix:
    """Some rows, in this order, stored as they were."""
    if isinstance(matrix, Dense):
        return Dense(matrix.weight_OI[index])
    if isinstance(matrix, Int8Rows):
        return Int8Rows(matrix.q_OI[index], matrix.scale_O[index])
    assert isinstance(matrix, Int4Groups)
    return Int4Groups(matrix.q_OP[index], matrix.scale_OG[index], matrix.zero_OG[index])


def _inputs(matrix: Matrix, first: int, end: int, unit: int) -> Matrix:
    """Some neighbouring inputs, whole units of them, stored as they were but for groups, which are cut into units."""
    if isinstance(matrix, Dense):
        return Dense(matrix.weight_OI[:, first:end])
    if isinstance(matrix, Int8Rows):
        return Int8Rows(matrix.q_OI[:, first:end], matrix.scale_O)
    assert isinstance(matrix, Int4Groups)
    fine = regrouped(matrix, unit)
    groups = slice(first // unit, end // unit)
    return Int4Groups(matrix.q_OP[:, first // 2 : end // 2], fine.scale_OG[:, groups], fine.zero_OG[:, groups])
