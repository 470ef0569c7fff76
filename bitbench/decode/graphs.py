"""Work on a GPU captured once and replayed, which spares the host a launch for each kernel."""

from collections.abc import Callable
from typing import Any


def captured(launch: Callable[[], None], device: str, pool: Any = None) -> Callable[[], None]:
    """A CUDA graph of what `launch` launches, which must read and write the same tensors each time.

    It is launched once before, on another stream, for libraries plan and compile the first time. `pool` is of
    torch.cuda.graph_pool_handle: graphs that never run at once may share memory for what they compute in between.
    """
    import torch

    with torch.inference_mode(), torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            launch()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            launch()
    replay: Callable[[], None] = graph.replay
    return replay
