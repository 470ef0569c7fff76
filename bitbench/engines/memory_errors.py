"""Turns the many ways of running out of memory into one error."""

from collections.abc import Iterator
from contextlib import contextmanager

from bitbench.facts.errors import OutOfMemory

# Torch raises plain RuntimeErrors for these: c10/core/impl/alloc_cpu.cpp and the CUDA libraries' handles.
_TEXTS = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Raise OutOfMemory where the block ran out of device or host memory; `doing` names it in the message."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(f"host memory was not enough while {doing}") from error
    except RuntimeError as error:  # torch.OutOfMemoryError is one too
        text = str(error)
        if not any(part in text for part in _TEXTS):
            raise
        where = "device" if "CUDA" in text or "CUBLAS" in text else "host"
        raise OutOfMemory(f"{where} memory was not enough while {doing}: {text.splitlines()[0]}") from error
