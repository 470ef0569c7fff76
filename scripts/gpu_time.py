"""How long something takes on the GPU, for the scripts."""

from collections.abc import Callable

import torch


def milliseconds(launch: Callable[[], object]) -> float:
    """Between two CUDA events around what `launch` launches; waits for it."""
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    launch()
    ended.record()
    torch.cuda.synchronize()
    return float(began.elapsed_time(ended))
