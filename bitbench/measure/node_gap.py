"""What a CUDA graph needs between two kernels of which one waits for the other: the launch cost left inside a graph."""

from collections.abc import Callable

from bitbench.measure.trace import record, union_s

_NUM_NODES = 1000
_REPLAYS = 20


def node_gap_s(device: str) -> float:
    """Seconds from the end of one kernel to the begin of the next in a replayed graph, on this GPU.

    A graph of a thousand additions to one number, each of which waits for the one before: the time of a replay by CUDA
    events without a profiler, less the time in which the profiler sees a kernel run, for each kernel. A step of N
    kernels that are busy for B seconds then takes B + N x this gap. Raises ProfilerRefused.
    """
    import torch

    replay = _chain(device)
    replay()
    torch.cuda.synchronize(device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(_REPLAYS):
        replay()
    end.record()
    end.synchronize()
    wall_s: float = begin.elapsed_time(end) / 1000 / _REPLAYS  # elapsed_time is in ms

    def once() -> None:
        replay()
        torch.cuda.synchronize(device)

    trace = record(once, device, operators=False)
    return max(0.0, (wall_s - union_s(trace.work)) / len(trace.work))


def _chain(device: str) -> Callable[[], None]:
    import torch

    number = torch.zeros(1, device=device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        number.add_(1)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(_NUM_NODES):
            number.add_(1)
    replay: Callable[[], None] = graph.replay
    return replay
