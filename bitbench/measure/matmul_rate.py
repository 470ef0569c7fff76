"""How fast a device multiplies large matrices: what a prefill that is bound by arithmetic could reach."""

import time
from typing import Any

# Large enough on a GPU that launching and edges do not count. A CPU that has to emulate a type takes seconds for more.
_SIZES = {"cuda": 8192, "cpu": 512}
_REPEATS = 20
# One type's products; a CPU may need longer for the first already.
_MOST_S = 0.3


def matmul_flops_per_s(device: str) -> float | None:
    """Operations per second (two for a multiplication and its addition) of a square product: the best of some, in the
    fastest type.

    float16 on a GPU; on a CPU, of which many emulate 16 bits slowly, float32, bfloat16 or float16. Of random normal
    numbers: zeros draw less power and run faster. None where its memory cannot be had.
    """
    import torch

    kind = device.partition(":")[0]
    types = (torch.float16,) if kind == "cuda" else (torch.float32, torch.bfloat16, torch.float16)
    try:
        return 2 * _SIZES[kind] ** 3 / min(_best_s(device, _SIZES[kind], dtype) for dtype in types)
    except torch.OutOfMemoryError:
        return None


def _best_s(device: str, size: int, dtype: Any) -> float:
    """The first product chooses an algorithm and wakes the clocks; it counts only where it is the only one."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    times: list[float] = []
    while len(times) <= _REPEATS and sum(times) < _MOST_S:
        _wait(device)
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(device)
        times.append(time.perf_counter() - began)
    return min(times[1:] or times)


def _wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)
