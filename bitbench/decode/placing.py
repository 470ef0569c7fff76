"""Where in memory the words lie that all blocks poll: tried out, for no rule tells.

A line of 128 bytes is in one slice of L2, which hardware chooses by the bits of a physical address that a program does
not know. Which lines share a slice changes a step of a 0.5B model by 3 to 5% (docs/log.md).
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LINE = 16
"""Words of 8 bytes. Nothing shares a line with what another phase sends."""
_MOST_LINES_BETWEEN = 512
_MOST_SECONDS_MOVING = 1.0


def tried(
    buffers: Mapping[str, Any],
    names: Sequence[str],
    seconds: Callable[[Mapping[str, Any]], float],
    tries: int,
    rounds: int = 0,
) -> tuple[dict[str, Any], tuple[float, ...]]:
    """The named buffers of int64 at the places with which `seconds` was least, and 0 there; and what it was at each of
    so many `tries` of places for all of them. From the best of these on, each buffer is moved by itself in so many
    `rounds`, and stays where that takes less: what they cost adds up, and so few moves find what many tries would. A
    large model's steps take long and gain little: after a second no more are made.

    Everything is timed twice and the lesser counts, moves beside what was before: a GPU that has just woken up is slow.
    """
    import torch

    at, begin = {}, 0  # each has a region of its own
    for name in names:
        at[name], begin = begin, begin + -(-buffers[name].numel() // LINE) * LINE + _MOST_LINES_BETWEEN * LINE
    pool = torch.zeros(begin, dtype=torch.int64, device=buffers[names[0]].device)
    draw = random.Random(0)

    def places(gaps: Mapping[str, int]) -> dict[str, Any]:
        starts = {name: at[name] + gap * LINE for name, gap in gaps.items()}
        return {n: pool[start : start + buffers[n].numel()].view(buffers[n].shape) for n, start in starts.items()}

    def least(*several: Mapping[str, int]) -> tuple[float, ...]:
        times = [[seconds(places(gaps)) for gaps in several] for _ in range(2)]
        return tuple(min(both) for both in zip(*times, strict=True))

    drawn = [{name: draw.randrange(_MOST_LINES_BETWEEN) for name in names} for _ in range(tries)]
    took = tuple(least(gaps)[0] for gaps in drawn)
    best = drawn[took.index(min(took))]
    until = time.monotonic() + _MOST_SECONDS_MOVING
    for name in tuple(names) * rounds:
        if time.monotonic() > until:
            break
        other = best | {name: draw.randrange(_MOST_LINES_BETWEEN)}
        before, after = least(best, other)
        best = other if after < before else best
    pool.zero_()
    return places(best), took
