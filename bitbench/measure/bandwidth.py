"""Read bandwidth of a device when a working set of some size is read over and over: what every ceiling stands on.

Several ways of reading race, the fastest is the figure: a ceiling that a decoder beats would be a bug.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from bitbench.facts.messages import Progress
from bitbench.facts.samples import Bandwidth
from bitbench.measure.bandwidth_race import Winner
from bitbench.measure.granule import GRANULE_BYTES, whole_granules

OnProgress = Callable[[Progress], None]


class Reader(Protocol):
    """A buffer on a device and the ways of reading it. `buffer_bytes` is what it got, a multiple of GRANULE_BYTES."""

    buffer_bytes: int

    def race(self, num_bytes: int) -> Winner:
        """Read the buffer's first `num_bytes` (a multiple of GRANULE_BYTES) again and again, in the fastest way."""

    def close(self) -> None:
        """Give the memory back."""


def measure(device: str, working_set_bytes: Sequence[int], progress: OnProgress | None = None) -> tuple[Bandwidth, ...]:
    """Bytes per second at each size, in the order asked; the buffer is freed afterwards.

    On `cuda:N` the median over groups of passes by CUDA events; on `cpu` the speed that a tenth of the groups reach,
    because other work on the host only ever slows them. `method` names the way of reading, and the bytes really read
    where memory or sense forbids the size asked for (no cache holds a useful part of the largest buffer).
    Raises ValueError for a size below one byte or another device, OutOfMemory where no buffer can be had.
    """
    if any(size < 1 for size in working_set_bytes):
        raise ValueError("a working set must be at least 1 byte")
    if not working_set_bytes:
        return ()
    reader = _open_reader(device, whole_granules(max(working_set_bytes)))
    try:
        rows: list[Bandwidth] = []
        winners: dict[int, Winner] = {}
        for done, size in enumerate(working_set_bytes):
            if progress:
                detail = f"reading {size / 1e6:,.0f} MB"
                progress(Progress(stage="bandwidth", detail=detail, done=done, total=len(working_set_bytes)))
            num_bytes = min(whole_granules(size), reader.buffer_bytes)
            if num_bytes not in winners:  # sizes beyond the buffer are all the same
                winners[num_bytes] = reader.race(num_bytes)
            rows.append(_bandwidth(size, num_bytes, winners[num_bytes]))
        return tuple(rows)
    finally:
        reader.close()


def _open_reader(device: str, num_bytes: int) -> Reader:
    kind = device.partition(":")[0]
    if kind == "cpu":
        from bitbench.measure.bandwidth_cpu import CpuReader

        return CpuReader(num_bytes)
    if kind == "cuda":
        from bitbench.measure.bandwidth_cuda import CudaReader

        return CudaReader(device, num_bytes)
    raise ValueError(f"can't measure the bandwidth of '{device}': give cpu or cuda:N")


def _bandwidth(size: int, num_bytes: int, winner: Winner) -> Bandwidth:
    method = winner.name
    if abs(num_bytes - size) >= GRANULE_BYTES:
        method += f", {num_bytes / 1e9:.2f} GB of it read"
    return Bandwidth(working_set_bytes=size, bytes_per_s=num_bytes / winner.pass_s, method=method)
