"""The gaps between output tokens, by the host's clock or the device's, and whether they can be true."""

import math
from collections.abc import Sequence
from itertools import pairwise

# The device's clock and the host's run apart by far less than this; an event is exact to about a microsecond.
_CLOCKS_APART = 0.01
_CLOCKS_APART_S = 1e-4
# Of a device engine's decoding time, as the host saw it, its gaps must explain this share. The rest is the host's: the
# first launch, the last copy, Python, and on a shared machine whatever interrupts it, so the share is taken over all
# measured prompts together, and only where there are enough gaps for those costs to be small.
_LEAST_SHARE = 0.5
_LEAST_OUTPUT_LEN = 16


class IncorrectOutput(Exception):
    """The engine's output failed a check, so its speed means nothing."""


def host_gaps(ticks: Sequence[float], output_len: int) -> tuple[float, ...]:
    """Seconds between the ticks of a host engine, one for each token. Raises IncorrectOutput."""
    if len(ticks) != output_len:
        raise IncorrectOutput(f"the engine told of {len(ticks)} tokens and made {output_len}")
    return tuple(after - before for before, after in pairwise(ticks))


def device_gaps(
    gaps: Sequence[float], ticks: Sequence[float], output_len: int, decode_wall_s: float
) -> tuple[float, ...]:
    """Seconds between tokens as a device engine reports them, which ticks for the first token only.

    `decode_wall_s` is the host's time from that tick until the device had finished: the gaps lie within it, so they
    cannot add up to more. Raises IncorrectOutput.
    """
    if len(ticks) != 1:
        raise IncorrectOutput(f"the engine told of {len(ticks)} first tokens")
    if len(gaps) != output_len - 1:
        raise IncorrectOutput(f"the engine reports {len(gaps)} gaps between {output_len} tokens")
    if not all(0 < gap < math.inf for gap in gaps):  # NaN is neither
        raise IncorrectOutput("the engine reports gaps between tokens that are no positive times")
    if sum(gaps) > decode_wall_s * (1 + _CLOCKS_APART) + _CLOCKS_APART_S:
        raise IncorrectOutput(
            f"the engine reports {sum(gaps):.4f} s between tokens that took {decode_wall_s:.4f} s by the host's clock"
        )
    return tuple(gaps)


def check_share(times: Sequence[tuple[float, float, int]]) -> None:
    """Whether a device engine's gaps explain the time that passed. `times`: (sum of gaps, decode wall, output_len).

    Gaps that claim less time than passed would make percentiles of ITL too good. Raises IncorrectOutput.
    """
    enough = [(gaps, wall) for gaps, wall, output_len in times if output_len >= _LEAST_OUTPUT_LEN]
    total, wall_total = sum(gaps for gaps, _ in enough), sum(wall for _, wall in enough)
    if total < _LEAST_SHARE * wall_total:
        raise IncorrectOutput(
            f"the gaps between tokens that the engine reports are {total / wall_total:.0%} of the time that passed"
        )
