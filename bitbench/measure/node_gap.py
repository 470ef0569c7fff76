"""What a CUDA graph needs between two kernels of which one waits for the other: the launch cost left inside a graph."""

from collections.abc import Callable

from bitbench.measure.trace import record, union_s

_NUM_NORMS = 110
_SIZE = 1024  # numbers of the vector: as wide as a small model's
_REPLAYS = 20


def node_gap_s(device: str) -> float:
    """Seconds from the end of one kernel to the begin of the next in a replayed graph, on this GPU.

    A graph of a thousand kernels each of which waits for the one before and is unlike it, as in a model: 110 times
    the eight of an RMSNorm in float32 (arXiv 1910.07467), and a product. The time of a replay by CUDA events without a
    profiler, less the time in which the profiler sees a kernel run, for each kernel. A step of N kernels that are busy
    for B seconds then takes B + N x this gap. Where all kernels are the same the gap is shorter: 0.03 us instead of
    0.14 on an H200 (docs/log.md). Raises ProfilerRefused.
    """
    import torch

    replay = _chain(device)

    def once() -> None:
        replay()
        torch.cuda.synchronize(device)

    once()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(_REPLAYS):
        replay()
    end.record()
    end.synchronize()
    wall_s: float = begin.elapsed_time(end) / 1000 / _REPLAYS  # elapsed_time is in ms

    record(once, device, operators=False)  # a process's first look at the device makes kernels seem longer
    trace = record(once, device, operators=False)
    return max(0.0, (wall_s - union_s(trace.work)) / len(trace.work))


def _chain(device: str) -> Callable[[], None]:
    import torch

    x = torch.randn(1, _SIZE, device=device, dtype=torch.float16)
    weight = torch.ones_like(x)
    matrix = torch.randn(_SIZE, _SIZE, device=device, dtype=torch.float16) * _SIZE**-0.5

    def norm_and_product(x: torch.Tensor) -> torch.Tensor:
        y = x.to(torch.float32)
        mean = y.pow(2).mean(-1, keepdim=True)
        return torch.nn.functional.linear(weight * (y * torch.rsqrt(mean + 1e-6)).to(torch.float16), matrix)

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        norm_and_product(x)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(_NUM_NORMS):
            x = norm_and_product(x)
    replay: Callable[[], None] = graph.replay
    return replay
