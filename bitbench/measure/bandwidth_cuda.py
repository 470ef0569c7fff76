"""Ways of reading a GPU's memory: torch reductions replayed from a CUDA graph, and a Triton kernel where there is one.

The Triton kernel repeats its passes inside one launch, torch's reductions inside one graph: launches cost neither of
them anything that shows. A figure earlier measured on an H200 at large sizes: 4.31 TB/s of 4.8 on its datasheet.
"""

import math
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

from bitbench.facts import gpus
from bitbench.facts.errors import OutOfMemory
from bitbench.measure.bandwidth_race import Rules, Run, Way, Winner, race
from bitbench.measure.granule import whole_granules

# nvbench asks for 0.5 s of GPU time and 10 samples; the two finalists have 0.6 s and 30 between them.
RULES = Rules(group_s=0.02, min_groups=15, min_s=0.3, quantile=0.5)

BUFFER_LIMIT_BYTES = 4 * 2**30
"""Far above any L2 (60 MB on an H200): a larger set is read no slower."""

_CONFIGS = ((1024, 4, 8), (2048, 8, 4), (4096, 8, 2), (4096, 16, 2))
"""(int32 values a block, warps, programs a multiprocessor). With four blocks in flight each keeps 128 KB or more of
loads in flight on a multiprocessor; an H200 needs 26 (3.4 MB over 132)."""

_MV_COLUMNS = 4096
_BEYOND_CACHE = 4  # times the L2: as in the rule for rows that beat their ceiling


class CudaReader:
    """A buffer of random float16 values on one GPU. `buffer_bytes` is at most half of what is free there."""

    def __init__(self, device: str, num_bytes: int) -> None:
        import torch

        self._torch, self._device = torch, torch.device(device)
        free = torch.cuda.mem_get_info(self._device)[0] // 2
        self.buffer_bytes = min(num_bytes, BUFFER_LIMIT_BYTES, whole_granules(free))
        try:
            self._buffer: Any = torch.empty(self.buffer_bytes, dtype=torch.int8, device=self._device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"no {self.buffer_bytes:,} bytes on {device} to measure bandwidth with") from error
        # normal float16 values: as wider types they are finite too
        self._buffer.view(torch.float16).normal_()
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._no_triton = ""

    def race(self, num_bytes: int) -> Winner:
        """The fastest of torch's reductions and the Triton kernel's configurations."""
        with self._torch.cuda.device(self._device):
            part = self._buffer[:num_bytes]
            ways = self._torch_ways(part) + self._triton_ways(part)
            winner = race(ways, self._device_seconds, RULES)
            while num_bytes / winner.pass_s > self._most(num_bytes) and len(ways) > 1:
                ways = [way for way in ways if way.name != winner.name]
                self._no_triton = " (a way faster than the memory's datasheet was left out)"
                winner = race(ways, self._device_seconds, RULES)
        return Winner(winner.name + self._no_triton, winner.pass_s, winner.num_groups)

    def _most(self, num_bytes: int) -> float:
        """The datasheet's bytes/s where the set is too large for L2 and the GPU is known: nothing true is faster."""
        facts = gpus.find(self._torch.cuda.get_device_name(self._device))
        if facts is None or num_bytes < _BEYOND_CACHE * facts.l2_bytes:
            return math.inf
        return facts.bandwidth_bytes_per_s

    def close(self) -> None:
        """Free the buffer."""
        self._buffer = None
        self._torch.cuda.empty_cache()

    def _torch_ways(self, part: Any) -> list[Way]:
        torch = self._torch
        floats, halves = part.view(torch.float32), part.view(torch.float16).view(-1, _MV_COLUMNS)
        vector = torch.randn(_MV_COLUMNS, device=self._device, dtype=torch.float16)
        return [
            Way("torch sum float32", self._graphed(floats.sum)),
            Way("torch amax float32", self._graphed(floats.amax)),
            Way("torch mv float16", self._graphed(lambda: torch.mv(halves, vector))),
        ]

    def _graphed(self, read: Callable[[], object]) -> Callable[[int], Run]:
        """Passes captured in a graph, so that the host's launches leave no gaps between them."""
        torch = self._torch

        def group(num_passes: int) -> Run:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries make their handles and workspaces before the capture
                read()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(num_passes):
                    read()
            replay: Run = graph.replay  # the bound method keeps the graph alive
            return replay

        return group

    def _triton_ways(self, part: Any) -> list[Way]:
        """One way for each configuration that compiles and reads every byte; why there is none goes to the method."""
        if not _has_triton():
            self._no_triton = " (no triton or no C compiler: torch only)"
            return []
        from bitbench.measure.read_kernel import checksum

        words = part.view(self._torch.int32)
        expected, ways = checksum(words), []
        for config in _CONFIGS:
            way, out = self._triton_way(words, config)
            try:
                way.group(1)()
                read = checksum(out)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # no compiler that works here
                self._no_triton = f" (triton: {type(error).__name__})"
                continue
            if read == expected:
                ways.append(way)
            else:
                self._no_triton = " (a triton kernel missed bytes and was left out)"
        return ways

    def _triton_way(self, words: Any, config: tuple[int, int, int]) -> tuple[Way, Any]:
        from bitbench.measure.read_kernel import read_blocks

        block, num_warps, per_sm = config
        num_blocks = words.numel() // block
        num_sms = self._torch.cuda.get_device_properties(self._device).multi_processor_count
        programs = min(num_sms * per_sm, num_blocks)
        out = self._torch.zeros(programs, dtype=self._torch.int32, device=self._device)

        def group(num_passes: int) -> Run:
            return lambda: read_blocks[(programs,)](
                words, out, num_blocks, num_passes, BLOCK=block, num_warps=num_warps, num_stages=1
            )

        return Way(f"triton read {block}x{num_warps}x{per_sm}", group), out

    def _device_seconds(self, run: Run) -> float:
        self._start.record()
        run()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) * 1e-3


def _has_triton() -> bool:
    """Whether triton is installed, and with it the C compiler that it builds its launchers with."""
    from importlib.util import find_spec

    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return bool(compiler) and find_spec("triton") is not None
