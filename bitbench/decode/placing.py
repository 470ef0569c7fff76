"""Where in memory the words lie that all blocks poll: tried out, for no rule tells.

A line of 128 bytes is in one slice of L2, which hardware chooses by the bits of a physical address that a program does
not know. Which lines share a slice changes a step of a 0.5B model by 3 to 5% (docs/log.md).
"""

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LINE = 16
"""Words of 8 bytes. Nothing shares a line with what another phase sends."""
_MOST_LINES_BETWEEN = 512


def tried(
    buffers: Mapping[str, Any], names: Iterable[str], seconds: Callable[[Mapping[str, Any]], float], tries: int
) -> tuple[dict[str, Any], tuple[float, ...]]:
    """The named buffers of int64 at the places with which `seconds` was least, and 0 there; and what it was at each of
    so many places. It is called twice at each, and the lesser counts: a GPU that has just woken up is slow.
    """
    import torch

    names = tuple(names)
    lines = sum(-(-buffers[name].numel() // LINE) for name in names) + len(names) * _MOST_LINES_BETWEEN
    pool = torch.zeros(lines * LINE, dtype=torch.int64, device=buffers[names[0]].device)
    draw = random.Random(0)
    places = [_places(pool, buffers, names, draw) for _ in range(tries)]
    took = tuple(min(seconds(place) for _ in range(2)) for place in places)
    pool.zero_()
    return places[took.index(min(took))], took


def _places(pool: Any, buffers: Mapping[str, Any], names: tuple[str, ...], draw: random.Random) -> dict[str, Any]:
    """In an order and with gaps that are drawn."""
    found, at = {}, 0
    for name in draw.sample(names, len(names)):
        at += draw.randrange(_MOST_LINES_BETWEEN) * LINE
        count = buffers[name].numel()
        found[name] = pool[at : at + count].view(buffers[name].shape)
        at += -(-count // LINE) * LINE
    return found
