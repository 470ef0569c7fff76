"""Ways of reading memory with all usable CPUs through torch.

Each thread reduces its own part of the buffer with a single-threaded torch call. Torch's own parallel reductions wait
for all threads at a spinning barrier, which costs half the speed as soon as another process runs; one of them races
too, for with many CPUs and a set that fits in their caches Python's lock costs more (seen with 16 CPUs). Against a C
loop (AVX-512 loads, 8 streams a thread) on the 2-core AMD EPYC this was written on, 270 MB: C 35.2, vector_norm 34.6,
amax 33.8 GB/s (medians, interleaved); a C loop with a single stream a thread gives 26.6.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from bitbench.facts import host
from bitbench.facts.errors import OutOfMemory
from bitbench.measure.bandwidth_race import Rules, Run, Way, Winner, race
from bitbench.measure.granule import whole_granules

# 0.1: what a tenth of the groups reach. Interference only slows, so the median would be a ceiling of a busy hour.
RULES = Rules(group_s=0.01, min_groups=12, min_s=0.2, quantile=0.1)

_PATTERN_ELEMENTS = 2**21  # random values, repeated over the buffer: making 1 GB of them takes seconds
_MANY_CPUS = 4  # from here on, sibling threads of one core may be worse than half as many threads
_SMALL_BUFFER_BYTES = 2**30
_CACHES = 8  # a buffer of 8 caches is read from memory


class CpuReader:
    """A buffer in memory. `buffer_bytes` is at most half of the free memory, and of a size that is not cached."""

    def __init__(self, num_bytes: int) -> None:
        import torch

        enough = max(_SMALL_BUFFER_BYTES, _CACHES * (host.last_level_cache_bytes() or 0))
        free = psutil.virtual_memory().available // 2
        self.buffer_bytes = min(num_bytes, whole_granules(enough), whole_granules(free))
        try:
            self._buffer: Any = torch.empty(self.buffer_bytes, dtype=torch.int8)
        except RuntimeError as error:  # torch's allocator says so for memory
            raise OutOfMemory(f"no {self.buffer_bytes:,} bytes of memory to measure bandwidth with") from error
        # normal float16 values: as wider types they are finite too, and nothing repeats within a cache line
        pattern = torch.randn(_PATTERN_ELEMENTS).half().view(torch.int8)
        for start in range(0, self.buffer_bytes, pattern.numel()):
            part = self._buffer[start : start + pattern.numel()]
            part.copy_(pattern[: part.numel()])
        num_cpus = len(host.usable_cpus())
        self._thread_counts = [num_cpus, num_cpus // 2] if num_cpus >= _MANY_CPUS else [num_cpus]
        self._threads_before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(num_cpus, initializer=torch.set_num_threads, initargs=(1,))

    def race(self, num_bytes: int) -> Winner:
        """The fastest of the ways."""
        return race(self.ways(num_bytes), host_seconds, RULES)

    def ways(self, num_bytes: int) -> list[Way]:
        """Several reductions, each with all usable CPUs (and half of them where there are many)."""
        import torch

        part = self._buffer[:num_bytes]
        operations: list[tuple[str, Any, Callable[[Any], object]]] = [
            ("torch vector_norm float64", part.view(torch.float64), torch.linalg.vector_norm),
            ("torch amax int64", part.view(torch.int64), torch.amax),
            ("torch amax float32", part.view(torch.float32), torch.amax),
            ("torch sum float32", part.view(torch.float32), torch.sum),
        ]
        ways = [
            Way(f"{name}, {threads} threads", self._grouped(view, operation, threads))
            for name, view, operation in operations
            for threads in self._thread_counts
        ]
        ways += [
            Way(f"torch sum float32, torch's {threads} threads", self._by_torch(part.view(torch.float32), threads))
            for threads in self._thread_counts
        ]
        return ways

    def close(self) -> None:
        """End the threads, free the buffer and leave torch's thread count as it was."""
        import torch

        self._pool.shutdown()
        torch.set_num_threads(self._threads_before)
        self._buffer = None

    def _grouped(self, view: Any, operation: Callable[[Any], object], threads: int) -> Callable[[int], Run]:
        parts = view.chunk(threads)

        def group(num_passes: int) -> Run:
            def read(part: Any) -> None:
                for _ in range(num_passes):
                    operation(part)

            return lambda: list(self._pool.map(read, parts))

        return group

    def _by_torch(self, view: Any, threads: int) -> Callable[[int], Run]:
        import torch

        def group(num_passes: int) -> Run:
            def read() -> None:
                torch.set_num_threads(threads)
                for _ in range(num_passes):
                    torch.sum(view)

            return read

        return group


def host_seconds(run: Run) -> float:
    """What something takes, by the host's clock."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
