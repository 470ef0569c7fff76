"""The step kernel with something in its source changed, for scripts that find out what that does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bitbench.decode import cuda_source
from bitbench.decode.step_source import FILE


def replaced(text: str, what: str, by: str) -> str:
    """What is there exactly once."""
    assert text.count(what) == 1, f"{text.count(what)} times in the kernel: {what}"
    return text.replace(what, by)


@contextmanager
def changed(change: Callable[[str], str]) -> Iterator[None]:
    """While this is open the decoder's kernel is compiled from another source."""
    source = cuda_source.source

    def other(file: str, *rest: Any) -> str:
        text = source(file, *rest)
        return change(text) if file == FILE else text

    cuda_source._compiled.cache_clear()
    cuda_source.source = other
    try:
        yield
    finally:
        cuda_source.source = source
        cuda_source._compiled.cache_clear()
