"""The physical ceiling: a decode step must read its bytes, and they come no faster than the measured read bandwidth.

It lies in `results` and not in `explain`, because a row that beats it is not a result.
"""

from typing import Literal

CEILING_TOLERANCE = 0.02
"""How far below the ceiling's time a TPOT may lie before it is an error. The read bandwidth is the best of several
loops, which repeat within about 1-2%, so a smaller excess is that measurement's own noise; a real cheat skips far
more.
"""

CACHE_FACTOR = 4
"""A step that reads more than this many last-level caches finds next to nothing of it there the next time (design)."""


def ceiling_tokens_per_s(batch_size: int, bandwidth_bytes_per_s: float, bytes_per_step: int) -> float:
    """The most tokens per second that the bandwidth allows: batch_size * bandwidth / bytes per step."""
    return batch_size * bandwidth_bytes_per_s / bytes_per_step


def mbu(bytes_per_step: int, tpot_s: float, bandwidth_bytes_per_s: float) -> float:
    """Model bandwidth utilisation, a fraction: bytes per step / TPOT / measured read bandwidth."""
    return bytes_per_step / tpot_s / bandwidth_bytes_per_s


def beats_ceiling(
    bytes_per_step: int, tpot_s: float, bandwidth_bytes_per_s: float, last_level_cache_bytes: int | None
) -> Literal["no", "cache", "error"]:
    """Whether a TPOT (seconds) is faster than its bytes can be read.

    `error` where the step exceeds four last-level caches: the work was not done, or not timed. `cache` where it may
    have come from a cache, or where the cache's size is unknown: a note.
    """
    if mbu(bytes_per_step, tpot_s, bandwidth_bytes_per_s) <= 1 / (1 - CEILING_TOLERANCE):
        return "no"
    if last_level_cache_bytes is None or bytes_per_step <= CACHE_FACTOR * last_level_cache_bytes:
        return "cache"
    return "error"
