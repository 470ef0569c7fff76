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
from bitbench.decode.tiles import Parts, Plan, parts, unit_inputs
from bitbench.decode.weights import LayerWeights, Weights

GRANULE = 8192
"""Streams are copied in pieces of this size, so they are padded to a multiple of it."""


@dataclass(frozen=True, slots=True)
class Streams:
    """`packed`: uint8 [blocks, bytes]. `plans` are by the fields of Share. `num_granules` and `head_offset` say of each
    block how long its stream is, and where in it lm_head begins. `unit` and `head_unit`: inputs of a unit.
    """

    packed: Any
    shares: tuple[Share, ...]
    plans: dict[str, Plan]
    num_granules: tuple[int, ...]
    head_offset: tuple[int, ...]
    num_down_parts: int
    unit: int
    head_unit: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks that multiply: how many, the warps of each that do, and how many bytes these may work on at once."""

    count: int
    num_warps: int
    most_bytes: int


def streams(weights: Weights, config: DecoderConfig, blocks: Blocks) -> Streams:
    """The streams of all blocks. Raises ValueError for more blocks than tiles of gate and up."""
    num_parts = down_parts(config.hidden_size, config.intermediate_size, config.group_size or 32, blocks.count)
    unit, head_unit = _units(weights, config, num_parts)
    pieces: list[list[Any]] = [[] for _ in range(blocks.count)]
    shares: list[Share] = []
    plans: dict[str, Plan] = {}

    def append(found: dict[str, Parts]) -> None:
        for name, matrix in found.items():
            plans[name] = matrix.plan(blocks.num_warps, blocks.most_bytes)
            for mine, share in zip(pieces, shares, strict=True):
                part = getattr(share, name)
                mine.extend(matrix.stream(part.first, part.count, plans[name]))

    head = {"head": parts(weights.head, head_unit)}
    for layer in weights.layers:
        matrices = _of_layer(layer, config, num_parts, unit)
        if not shares:
            sizes = {name: Tiles(p.num_tiles, p.tile_bytes) for name, p in (matrices | head).items()}
            shares = deal(sizes, blocks.count)
        append(matrices)
    offsets = [sum(piece.numel() for piece in mine) for mine in pieces]
    append(head)
    packed, lengths = _joined(pieces, weights.final_norm.device)
    return Streams(packed, tuple(shares), plans, lengths, tuple(offsets), num_parts, unit, head_unit)


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


def _units(weights: Weights, config: DecoderConfig, num_parts: int) -> tuple[int, int]:
    """Inputs of a unit in the layers, where all matrices have the same, and in lm_head."""
    inputs = (config.hidden_size, config.q_size, config.intermediate_size // num_parts)
    grouped = isinstance(weights.head, Int4Groups)
    return (
        unit_inputs(inputs, config.group_size),
        unit_inputs((config.hidden_size,), config.group_size if grouped else 0),
    )


def _of_layer(layer: LayerWeights, config: DecoderConfig, num_parts: int, unit: int) -> dict[str, Parts]:
    """The tiles of a layer's matrices in the order of reading; keys are fields of Share."""
    import torch

    inputs = config.intermediate_size // num_parts
    # Eight rows of gate, then the same eight of up, so that both meet in one tile.
    order = torch.arange(2 * config.intermediate_size).reshape(2, -1, 8).transpose(0, 1).flatten()
    cut = [parts(_inputs(layer.down, i * inputs, (i + 1) * inputs), unit) for i in range(num_parts)]
    return {
        "qkv": parts(layer.qkv, unit),
        "o": parts(layer.o, unit),
        "gate_up": parts(_rows(layer.gate_up, order), unit),
        "down": Parts(torch.cat([p.units_TUZ for p in cut]), torch.cat([p.ends_TZ for p in cut])),
    }


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
