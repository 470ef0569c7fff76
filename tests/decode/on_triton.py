"""Where Triton's kernels run in tests: on the GPU if there is one, else on the CPU under Triton's interpreter."""

import os
from importlib.util import find_spec

import pytest
import torch

DEVICE = "cuda:0" if torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET") else "cpu"
needs_triton = pytest.mark.skipif(
    not find_spec("triton") or (DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1"),
    reason="needs triton, and a GPU or TRITON_INTERPRET=1",
)


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """NaN everywhere: what is not written is seen."""
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Fresh numbers on the device."""
    return torch.randn(shape).to(dtype).to(DEVICE)
