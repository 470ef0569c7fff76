"""Captures a step in a CUDA graph, or says what in it cannot be captured."""

import traceback
from collections.abc import Callable
from pathlib import Path

from bitbench.facts.errors import Unsupported

# Libraries make workspaces, compile and tune kernels in the first steps; torch's own examples run three before capture.
_WARMUP_STEPS = 3
# What torch says in set_sync_debug_mode("error"): c10/cuda/CUDAFunctions.cpp.
_SYNC_TEXT = "synchronizing CUDA operation"


def capture(step: Callable[[], None], device: str, known_wait: str = "") -> Callable[[], None]:
    """A function that repeats on the device what `step` did, with one launch.

    The step runs a few times first and must leave nothing behind that matters; capturing itself runs nothing.
    `known_wait` explains, in words, what this method is known to wait for. Raises Unsupported.
    """
    import torch

    before = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        for _ in range(_WARMUP_STEPS):
            step()
        _refuse_host_waits(step, known_wait)
    before.wait_stream(stream)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    try:
        # thread_local: what another thread of a library does meanwhile is not this step's fault.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step()
    except RuntimeError as error:
        # torch.cuda.graph leaves its stream current where ending the capture fails too.
        torch.cuda.set_stream(before)
        torch.cuda.synchronize(device)
        first = _first_error(error)
        if isinstance(first, torch.OutOfMemoryError):
            raise first from None
        raise Unsupported(_reason("a decode step cannot be captured", first, known_wait)) from error
    replay: Callable[[], None] = graph.replay
    return replay


def _refuse_host_waits(step: Callable[[], None], known_wait: str) -> None:
    """Run the step with torch told to raise where the host waits for the device. Raises Unsupported.

    Such a wait would also make the capture fail, but a failed capture leaves torch's allocator and random generators
    in doubt, and its error does not always name the place.
    """
    import torch

    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        if _SYNC_TEXT not in str(error):
            raise
        raise Unsupported(_reason("the host waits for the device in every decode step", error, known_wait)) from error
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _first_error(error: RuntimeError) -> RuntimeError:
    """What went wrong first: ending a broken capture raises once more."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return error


def _reason(what: str, error: BaseException, known_wait: str) -> str:
    """One line: what is known of the method, where it happened, and the error's first line."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    parts = [what, known_wait, _where(error), text]
    return ": ".join(part for part in parts if part)


def _where(error: BaseException) -> str:
    """The innermost line of Python, `package/module.py:12 `code``, without the folder it is installed in."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    path = Path(frames[-1].filename)
    package = path.parent
    while (package / "__init__.py").exists():
        package = package.parent
    return f"{path.relative_to(package).as_posix()}:{frames[-1].lineno} `{frames[-1].line}`"
