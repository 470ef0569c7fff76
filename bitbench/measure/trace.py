"""Runs something under torch's profiler and reads what it saw.

The trace is read in the format of `export_chrome_trace`, which has kept its form over many versions of torch, and of
which samples can be kept for tests. Times are seconds on the profiler's clock.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DEVICE_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
_RUNTIME = frozenset({"cuda_runtime", "cuda_driver"})
_HOST = frozenset({"cpu_op", "user_annotation"})


class ProfilerRefused(Exception):
    """The profiler could not be used here; the message is one line."""


@dataclass(frozen=True, slots=True)
class HostEvent:
    """An operator, an annotation or a call of the CUDA runtime on one thread."""

    name: str
    thread: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """A kernel, copy or fill on the GPU. `launch` is the runtime call that asked for it, where the trace has it."""

    name: str
    start_s: float
    end_s: float
    launch: HostEvent | None

    @property
    def duration_s(self) -> float:
        """Seconds on the device."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Trace:
    """What was seen: work in the order in which it began, runtime calls and host events likewise. `wall_s` is the
    host's time for all of it.
    """

    work: tuple[DeviceWork, ...]
    runtime: tuple[HostEvent, ...]
    host: tuple[HostEvent, ...]
    wall_s: float


def record(run: Callable[[], None], device: str, operators: bool) -> Trace:
    """Profile `run`, which must leave nothing running. `operators`: also see what the host does, which slows it.

    Raises ProfilerRefused where torch's profiler fails, or a GPU is there and nothing was seen on it.
    """
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CUDA] if on_gpu else []
    if operators or not on_gpu:
        activities.append(ProfilerActivity.CPU)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        try:
            with profile(activities=activities) as profiler:
                began = time.perf_counter()
                run()
                wall_s = time.perf_counter() - began
            profiler.export_chrome_trace(str(path))
        except RuntimeError as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ProfilerRefused(f"torch's profiler failed: {first}") from error
        trace = read(json.loads(path.read_text(encoding="utf-8"))["traceEvents"], wall_s)
    if on_gpu and not trace.work:
        raise ProfilerRefused(
            "the profiler saw nothing on the GPU: CUPTI is missing, or this container may not use it "
            "(NVreg_RestrictProfilingToAdminUsers, --cap-add SYS_ADMIN)"
        )
    return trace


def read(events: Sequence[Mapping[str, Any]], wall_s: float) -> Trace:
    """A trace from the events of a Chrome trace file (`ph` X: complete events, times in microseconds)."""
    complete = [e for e in events if e.get("ph") == "X"]
    runtime = {
        e["args"]["correlation"]: _host_event(e)
        for e in complete
        if e.get("cat") in _RUNTIME and "correlation" in e.get("args", {})
    }
    work = [
        DeviceWork(e["name"], *_times(e), runtime.get(e.get("args", {}).get("correlation")))
        for e in complete
        if e.get("cat") in _DEVICE_WORK
    ]
    host = [_host_event(e) for e in complete if e.get("cat") in _HOST]
    return Trace(
        work=tuple(sorted(work, key=lambda w: w.start_s)),
        runtime=tuple(sorted(runtime.values(), key=lambda e: e.start_s)),
        # Of two that begin together the longer one encloses the other.
        host=tuple(sorted(host, key=lambda e: (e.start_s, -e.end_s))),
        wall_s=wall_s,
    )


def _host_event(event: Mapping[str, Any]) -> HostEvent:
    return HostEvent(event["name"], str(event.get("tid")), *_times(event))


def _times(event: Mapping[str, Any]) -> tuple[float, float]:
    start = float(event["ts"])
    return start * 1e-6, (start + float(event.get("dur", 0.0))) * 1e-6


def union_s(work: Sequence[DeviceWork]) -> float:
    """Seconds in which at least one of them ran. They must be in order of their start."""
    total, until = 0.0, float("-inf")
    for item in work:
        total += max(0.0, item.end_s - max(item.start_s, until))
        until = max(until, item.end_s)
    return total
