"""Which block of the step kernel multiplies what.

All wait for the block that has most to do in a phase, so a phase's tiles are dealt out evenly. Memory is busy all the
time only if no block's stream is longer than the others', so what does not come out even goes to blocks that have less.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from bitbench.decode.config import DecoderConfig
from bitbench.decode.tiles import num_tiles

# More would be more vectors for every block to read.
_MOST_DOWN_PARTS = 4


@dataclass(frozen=True, slots=True)
class Range:
    """Tiles `first` to `first` + `count`."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Share:
    """One block's tiles of each phase. A tile of `o` or `down` is one of a part of its inputs; the first part's come
    first.
    """

    qkv: Range
    o: Range
    gate_up: Range
    down: Range
    head: Range


@dataclass(frozen=True, slots=True)
class Tiles:
    """How many tiles a matrix has and how many bytes each takes."""

    count: int
    num_bytes: int


def down_parts(config: DecoderConfig, num_blocks: int) -> list[int]:
    """Into how many parts the inputs of down can be cut, each of whole units: first those with which the block that has
    most has least to multiply.
    """
    tiles, inputs, unit = num_tiles(config.hidden_size), config.intermediate_size, config.group_size or 32
    possible = [
        parts for parts in range(1, _MOST_DOWN_PARTS + 1) if parts <= num_blocks and not inputs % (parts * unit)
    ]
    return sorted(possible, key=lambda parts: -(-tiles // (num_blocks // parts)) / parts)


def deal(tiles: Mapping[str, Tiles], num_blocks: int, num_o_parts: int, num_down_parts: int) -> list[Share]:
    """The share of each block of the tiles of `qkv`, `o`, `gate_up`, `down` and `head`.

    Each block has at least one tile of gate and up, which the kernel needs; its tiles of o belong to one part, so do
    those of down.
    Raises ValueError where there are more blocks than tiles of gate and up.
    """
    gate_up, head = tiles["gate_up"], tiles["head"]
    if gate_up.count < num_blocks:
        raise ValueError(f"{gate_up.count} tiles of gate and up are too few for {num_blocks} blocks")
    load = [0] * num_blocks
    counts = {"qkv": _evenly(load, tiles["qkv"]), "o": _by_parts(load, tiles["o"], num_o_parts)}
    # Where a block has one tile at most, that is of one part anyway, and all blocks are better to choose from.
    one_each = tiles["down"].count <= num_blocks
    counts["down"] = _by_parts(load, tiles["down"], 1 if one_each else num_down_parts)
    counts["gate_up"] = _evenly(load, gate_up)
    ranges = {name: _ranges(numbers) for name, numbers in counts.items()}
    # lm_head is dealt out by a formula, so that a token's embedding is found without a table.
    cuts = [head.count * block // num_blocks for block in range(num_blocks + 1)]
    heads = [Range(first, end - first) for first, end in pairwise(cuts)]
    return [
        Share(ranges["qkv"][b], ranges["o"][b], ranges["gate_up"][b], ranges["down"][b], heads[b])
        for b in range(num_blocks)
    ]


def most_tiles(shares: Iterable[Share], name: str) -> int:
    """How many tiles of a matrix, a field of Share, a block has at most."""
    return max(int(getattr(share, name).count) for share in shares)


def _by_parts(load: list[int], tiles: Tiles, num_parts: int) -> list[int]:
    """As `_evenly`, each part's tiles to neighbouring blocks of its own."""
    counts = []
    for part in range(num_parts):
        first, end = (len(load) * p // num_parts for p in (part, part + 1))
        mine = load[first:end]
        counts += _evenly(mine, Tiles(tiles.count // num_parts, tiles.num_bytes))
        load[first:end] = mine
    return counts


def _evenly(load: list[int], tiles: Tiles) -> list[int]:
    """How many tiles each block gets; those with the least bytes so far get one more. Adds to `load`."""
    each, more = divmod(tiles.count, len(load))
    lightest = set(sorted(range(len(load)), key=lambda block: load[block])[:more])
    counts = [each + (block in lightest) for block in range(len(load))]
    for block, count in enumerate(counts):
        load[block] += count * tiles.num_bytes
    return counts


def _ranges(counts: list[int]) -> list[Range]:
    found, first = [], 0
    for count in counts:
        found.append(Range(first, count))
        first += count
    return found
