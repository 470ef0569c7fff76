"""Launches kernels, or only compiles them, many at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import triton

from bitbench.facts.host import usable_cpus

_compiling: ContextVar[bool] = ContextVar("compiling", default=False)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """`kernel[grid](...)`, or within `compiled_together` its compilation, for the same arguments."""
    kernel.run(*arguments, grid=grid, warmup=_compiling.get(), **options)


@contextmanager
def compiled_together() -> Iterator[None]:
    """What is launched inside is not run but compiled, in as many threads as there are cores; waits for all at the end.

    A kernel that does not compile says so when it is launched.
    """
    with ThreadPoolExecutor(len(usable_cpus())) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        token = _compiling.set(True)
        try:
            yield
        finally:
            _compiling.reset(token)
