"""The unit in which working sets are read."""

GRANULE_BYTES = 2**16
"""Sizes are rounded down to whole granules, so that every way of reading covers the set without a remainder."""


def whole_granules(num_bytes: int) -> int:
    """`num_bytes` rounded down to whole granules, at least one."""
    return max(num_bytes // GRANULE_BYTES, 1) * GRANULE_BYTES
