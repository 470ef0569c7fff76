"""Weights in the order in which the step kernel reads them: for each block one stream of bytes.

What a block reads in a step follows in its stream without gaps, layer by layer its tiles of q, k, v | o | gate and up |
down, and after the last layer those of lm_head (tiles.py, deal.py). Down is cut into
parts of its inputs; a block has tiles of one part only.
"""

from dataclasses import dataclass, replace
from typing import Any

from bitbench.decode.config import DecoderConfig
from bitbench.decode.deal import Share, Tiles, deal, down_parts, most_tiles
from bitbench.decode.matrix import Dense, Int4Groups, Int8Rows, Matrix, with_rows
from bitbench.decode.streamed import Places, Streamed
from bitbench.decode.tiles import Parts, batched, parts, regrouped, unit_inputs
from bitbench.decode.weights import LayerWeights, Weights

GRANULE = 8192
"""Streams are copied in pieces of this size, so they are padded to a multiple of it."""
# Where a block has so many bytes of a layer, several times what the ring holds, these products are waited for in half
# as many tiles at a time, so that memory can go on sooner: 7B's INT4, 890 KB, gains 1.5% (docs/log.md).
_LARGE, _LONG = 500_000, ("gate_up", "down")


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


def bytes_a_block(weights: Weights, num_blocks: int) -> float:
    """Of a layer's matrices, on average."""
    return sum(m.num_bytes for m in weights.layers[0].matrices) / num_blocks


def cuts(weights: Weights, config: DecoderConfig, o_parts: int, num_down_parts: int) -> Cuts:
    """How this model's matrices are cut, o and down into so many parts."""
    group = config.group_size
    unit = unit_inputs((config.hidden_size, config.intermediate_size // num_down_parts), group)
    head = unit_inputs((config.hidden_size,), group if isinstance(weights.head, Int4Groups) else 0)
    # A group of 4-bit weights may be cut, for the numbers of a key head are seldom whole groups; it stays cut.
    o = weights.layers[0].o
    o_group = o.group_size if isinstance(o, Int4Groups) else 128
    return Cuts(o_parts, num_down_parts, unit, unit_inputs((config.q_size // o_parts, o_group), 0), head)


def streamed(
    weights: Weights, config: DecoderConfig, blocks: Blocks, o_parts: int, num_down_parts: int | None = None
) -> "StreamedWeights":
    """The weights with their matrices in the streams of all blocks, and there alone once the given ones are let go.
    Down is cut as suits the blocks best, if it is not said.

    Raises ValueError for more blocks than tiles of gate and up.
    """
    down = num_down_parts or down_parts(config, blocks.count)[0]
    if isinstance(weights, StreamedWeights):
        made = weights.streams.cuts
        if (weights.blocks, made.o_parts, made.down_parts) == (blocks, o_parts, down):
            return weights
        weights = weights.plain()
    how = cuts(weights, config, o_parts, down)
    writer = _Writer(weights, config, blocks, how)
    layers = [writer.layer(layer) for layer in weights.layers]
    head = writer.head()
    embedding = head if weights.embedding is weights.head else weights.embedding
    return StreamedWeights(embedding, tuple(layers), weights.final_norm, head, writer.streams(), blocks)


@dataclass(frozen=True, slots=True)
class StreamedWeights(Weights):
    """Weights whose matrices lie in `streams`, made for these blocks; an untied embedding is a table of its own."""

    streams: Streams
    blocks: Blocks

    def plain(self) -> Weights:
        """The same with matrices of their own."""
        names = ("qkv", "o", "gate_up", "down")
        layers = tuple(replace(x, **{name: getattr(x, name).plain() for name in names}) for x in self.layers)
        head = self.head.plain()
        embedding = head if self.embedding is self.head else self.embedding
        return Weights(embedding, layers, self.final_norm, head)


class _Writer:
    """Writes matrix after matrix behind what the blocks' streams hold already."""

    def __init__(self, weights: Weights, config: DecoderConfig, blocks: Blocks, how: Cuts) -> None:
        import torch

        self._config, self._blocks, self._how = config, blocks, how
        self._head, self._head_parts = weights.head, parts(weights.head, how.head_unit)
        first = _of_layer(weights.layers[0], config, how) | {"head": self._head_parts}
        tiles = {n: Tiles(p.num_tiles, p.tile_bytes) for n, p in first.items()}
        self._shares = deal(tiles, blocks.count, how.o_parts, how.down_parts)
        self._batches = {
            name: made.batch(blocks.num_warps, blocks.most_bytes, most_tiles(self._shares, name))
            for name, made in first.items()
        }
        if bytes_a_block(weights, blocks.count) >= _LARGE:
            self._batches |= {name: -(-self._batches[name] // 2) for name in _LONG}
        lengths = []
        for share in self._shares:
            bytes_of = {n: getattr(share, n).count * p.tile_bytes for n, p in first.items()}
            layer = sum(size for n, size in bytes_of.items() if n != "head")
            lengths.append((len(weights.layers) * layer, bytes_of["head"]))
        self._granules = tuple(-(-(layers + head) // GRANULE) for layers, head in lengths)
        self._head_offset = tuple(layers for layers, _ in lengths)
        device, width = weights.final_norm.device, max(self._granules) * GRANULE
        self._packed = torch.zeros(blocks.count, width, dtype=torch.uint8, device=device)
        self._at = [0] * blocks.count

    def layer(self, layer: LayerWeights) -> LayerWeights:
        """The layer with its matrices in the streams."""
        of_layer = _of_layer(layer, self._config, self._how)
        how, c = self._how, self._config
        cut = {"o": (how.o_unit, how.o_parts), "down": (how.unit, how.down_parts)}
        found = {}
        for name, made in of_layer.items():
            unit, num_parts = cut.get(name, (how.unit, 1))
            pairs = c.intermediate_size if name == "gate_up" else 0
            found[name] = self._written(name, getattr(layer, name), made, unit=unit, num_parts=num_parts, pairs=pairs)
        return replace(layer, **found)

    def head(self) -> Streamed:
        """lm_head in the streams; layers come before it."""
        assert tuple(self._at) == self._head_offset
        return self._written("head", self._head, self._head_parts, unit=self._how.head_unit)

    def streams(self) -> Streams:
        """All of them."""
        return Streams(self._packed, tuple(self._shares), self._batches, self._granules, self._head_offset, self._how)

    def _written(
        self, name: str, matrix: Matrix, made: Parts, *, unit: int, num_parts: int = 1, pairs: int = 0
    ) -> Streamed:
        places = Places()
        for block, share in enumerate(self._shares):
            part, row = getattr(share, name), self._packed[block]
            assert not part.count or part.first == sum(places.counts), "tiles are dealt out in the order of blocks"
            for first, count in batched(part.first, part.count, self._batches[name]):
                places.add(block * row.numel() + self._at[block], count)
                for piece in made.batch_bytes(first, count):
                    row[self._at[block] : self._at[block] + piece.numel()] = piece
                    self._at[block] += piece.numel()
        dtype = matrix.weight_OI.dtype if isinstance(matrix, Dense) else None
        sizes = (made.units_TUZ.shape[1], made.units_TUZ.shape[2], made.ends_TZ.shape[1])
        return Streamed(
            self._packed, matrix.kind, matrix.shape, matrix.num_bytes, dtype, unit, num_parts, pairs,
            *places.of_tiles(*sizes, self._packed.device), *sizes[1:],
        )  # fmt: skip


def gate_up_order(intermediate_size: int) -> Any:
    """Eight rows of gate, then the same eight of up, so that both meet in one tile: rows of gate and up, int64."""
    import torch

    return torch.arange(2 * intermediate_size).reshape(2, -1, 8).transpose(0, 1).flatten()


def _of_layer(layer: LayerWeights, config: DecoderConfig, how: Cuts) -> dict[str, Parts]:
    """The tiles of a layer's matrices in the order of reading; keys are fields of Share."""
    order = gate_up_order(config.intermediate_size)
    return {
        "qkv": parts(layer.qkv, how.unit),
        "o": _in_parts(layer.o, how.o_parts, how.o_unit),
        "gate_up": parts(with_rows(layer.gate_up, lambda rows: rows[order]), how.unit),
        "down": _in_parts(layer.down, how.down_parts, how.unit),
    }


def _in_parts(matrix: Matrix, num_parts: int, unit: int) -> Parts:
    """The tiles of each part of the inputs, one part's after another's."""
    import torch

    inputs = matrix.shape[1] // num_parts
    found = [parts(_inputs(matrix, i * inputs, (i + 1) * inputs, unit), unit) for i in range(num_parts)]
    return Parts(torch.cat([p.units_TUZ for p in found]), torch.cat([p.ends_TZ for p in found]))


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
