"""Quantizing's products in float32 where a CPU multiplies bfloat16 more slowly than it takes to convert.

gptqmodel packs 16-bit weights only, so the model is loaded in bfloat16. Without AVX-512 or AMX that takes four to five
times as long to multiply as float32 (docs/log.md). A product's sums are float32 and its result bfloat16 either way.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_REPEATS = 3


@contextmanager
def fast_linear(device: str) -> Iterator[None]:
    """Let torch's `linear` multiply bfloat16 as float32 while the context lasts, on a CPU where that is faster."""
    from torch.nn import functional

    original = functional.linear
    if device == "cpu" and _faster(original):
        functional.linear = _in_float32(original)
    try:
        yield
    finally:
        functional.linear = original


def _in_float32(linear: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def converted(input: Any, weight: Any, bias: Any = None) -> Any:
        if input.dtype != torch.bfloat16 or input.device.type != "cpu":
            return linear(input, weight, bias)
        return linear(input.float(), weight.float(), None if bias is None else bias.float()).to(input.dtype)

    return converted


def _faster(linear: Callable[..., Any]) -> bool:
    """Whether converting and multiplying a product of the usual size takes less time than multiplying it."""
    import torch

    x, weight = torch.ones(256, 512, dtype=torch.bfloat16), torch.ones(512, 512, dtype=torch.bfloat16)
    return _least_s(_in_float32(linear), x, weight) < _least_s(linear, x, weight)


def _least_s(linear: Callable[..., Any], x: Any, weight: Any) -> float:
    times = []
    for _ in range(_REPEATS + 1):  # the first plans
        began = time.perf_counter()
        linear(x, weight)
        times.append(time.perf_counter() - began)
    return min(times[1:])
