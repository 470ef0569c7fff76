"""Which block of the step kernel multiplies what: every phase's tiles dealt out so that all blocks read equally much.

Memory is busy all the time only if no block's stream is longer than the others'. A phase with fewer tiles than blocks
goes to blocks that have had less so far; gate and up, which have many, even out what the others left.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from bitbench.decode.tiles import num_tiles


@dataclass(frozen=True, slots=True)
class Range:
    """Tiles `first` to `first` + `count`."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Share:
    """One block's tiles of each phase. A tile of `down` is one of a part of its inputs, the first part's come first."""

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


def down_parts(hidden_size: int, inputs: int, unit: int, num_blocks: int) -> int:
    """Into how many parts the inputs of down are cut: as many as there are blocks for, each of whole units."""
    most = max(1, num_blocks // num_tiles(hidden_size))
    return next(parts for parts in range(min(most, 4), 0, -1) if inputs % (parts * unit) == 0)


def deal(tiles: Mapping[str, Tiles], num_blocks: int) -> list[Share]:
    """The share of each block of the tiles of `qkv`, `o`, `gate_up`, `down` and `head`.

    Each block has at least one tile of gate and up, which the kernel needs.

    Raises ValueError where there are more blocks than such tiles.
    """
    gate_up, head = tiles["gate_up"], tiles["head"]
    if gate_up.count < num_blocks:
        raise ValueError(f"{gate_up.count} tiles of gate and up are too few for {num_blocks} blocks")
    load = [gate_up.num_bytes] * num_blocks
    counts = {name: _least_first(load, tiles[name]) for name in ("qkv", "o", "down")}
    extra = _least_first(load, Tiles(gate_up.count - num_blocks, gate_up.num_bytes))
    counts["gate_up"] = [1 + n for n in extra]
    ranges = {name: _ranges(numbers) for name, numbers in counts.items()}
    # lm_head is dealt out by a formula, so that a token's embedding is found without a table.
    cuts = [head.count * block // num_blocks for block in range(num_blocks + 1)]
    heads = [Range(first, end - first) for first, end in pairwise(cuts)]
    return [
        Share(ranges["qkv"][b], ranges["o"][b], ranges["gate_up"][b], ranges["down"][b], heads[b])
        for b in range(num_blocks)
    ]


def _least_first(load: list[int], tiles: Tiles) -> list[int]:
    """How many tiles each block gets, each given to the block with the least bytes so far, to which it adds."""
    counts = [0] * len(load)
    waiting = [(size, block) for block, size in enumerate(load)]
    heapq.heapify(waiting)
    for _ in range(tiles.count):
        size, block = heapq.heappop(waiting)
        counts[block] += 1
        load[block] = size + tiles.num_bytes
        heapq.heappush(waiting, (load[block], block))
    return counts


def _ranges(counts: list[int]) -> list[Range]:
    found, first = [], 0
    for count in counts:
        found.append(Range(first, count))
        first += count
    return found
