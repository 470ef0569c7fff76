"""How fast a device multiplies large 16-bit matrices: what a prefill that is bound by arithmetic could reach."""

import time

from bitbench.facts.errors import OutOfMemory

# Large enough that launching and edges do not count, small enough to take well under a second.
_SIZES = {"cuda": 8192, "cpu": 1024}
_REPEATS = {"cuda": 20, "cpu": 5}


def matmul_flops_per_s(device: str) -> float | None:
    """Operations per second (two for a multiplication and its addition) of a square product, the best of a few.

    float16 on a GPU and bfloat16 on a CPU, of random normal numbers: zeros draw less power and run faster. None where
    its memory cannot be had.
    """
    import torch

    kind = device.partition(":")[0]
    size = _SIZES[kind]
    dtype = torch.float16 if kind == "cuda" else torch.bfloat16
    try:
        return 2 * size**3 / min(_times_s(device, size, dtype, _REPEATS[kind]))
    except (torch.OutOfMemoryError, OutOfMemory):
        return None


def _times_s(device: str, size: int, dtype: object, repeats: int) -> list[float]:
    import torch

    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    times = []
    for repeat in range(3 + repeats):
        _wait(device)
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(device)
        if repeat >= 3:  # the first ones choose an algorithm and wake the clocks
            times.append(time.perf_counter() - began)
    return times


def _wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)
