"""Supervises one worker process: hears its events, bounds its silence, and says how it ended."""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from bitbench.facts.messages import (
    EVENT,
    PROCESS_VARIABLE,
    Event,
    Finished,
    MeasureTask,
    PrepareTask,
    QualityTask,
    ReferenceTask,
    Task,
)

OnEvent = Callable[[Event], None]
_VMSTAT = Path("/proc/vmstat")
_LOG_LINES = 5
_POLL_S = 0.5
_WORKER_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",  # a crash takes no line of the log with it
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts, so that the GPU watched is the GPU used
}
# OpenMP's threads spin while they wait for each other. For what is timed they may; elsewhere they would only take the
# cores from others: two busy cores made a comparison of 80 s take 450 (docs/log.md, 2026-11-25).
_UNTIMED_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True, slots=True)
class Limits:
    """`silence_s`: how long a worker may say nothing. `until_s`: CLOCK_MONOTONIC time by which it must be done."""

    silence_s: float
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a worker ended. `finished` is its own last word, or what its death says; times are seconds."""

    finished: Finished
    started_s: float
    wall_s: float
    cpu_s: float


def run_worker(task: Task, limits: Limits, on_event: OnEvent) -> Outcome:
    """Run one task in a process of its own. Raises KeyboardInterrupt, after the process is gone."""
    started, kills_before = time.monotonic(), _oom_kills()
    read_fd, write_fd = os.pipe()
    with tempfile.TemporaryFile() as log:
        process = _spawn(task, write_fd, log)
        os.close(write_fd)
        try:
            finished = _listen(process, read_fd, limits, on_event)
        finally:
            _end(process)
            os.close(read_fd)
        if finished is None:
            finished = _death(process.returncode, _tail(log), _oom_kills() > kills_before)
        usage = os.times()
    return Outcome(finished, started, time.monotonic() - started, usage.children_user + usage.children_system)


def _spawn(task: Task, write_fd: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    index = task.process_index if isinstance(task, MeasureTask) else 0
    waiting = _UNTIMED_ENVIRONMENT if isinstance(task, QualityTask | ReferenceTask | PrepareTask) else {}
    # A session of its own: Ctrl-C reaches the runner alone, which ends the worker and everything it started.
    process = subprocess.Popen(
        [sys.executable, "-m", "bitbench.worker", str(write_fd)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(write_fd,),
        start_new_session=True,
        env=os.environ | _WORKER_ENVIRONMENT | waiting | {PROCESS_VARIABLE: str(index)},
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once; its return code tells
        process.stdin.write(task.model_dump_json().encode())
        process.stdin.close()
    return process


def _listen(process: subprocess.Popen[bytes], read_fd: int, limits: Limits, on_event: OnEvent) -> Finished | None:
    """Events until the worker's last word, its end (None) or its limit."""
    finished: Finished | None = None
    heard, rest = time.monotonic(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(read_fd, selectors.EVENT_READ)
        while True:
            if selector.select(timeout=_POLL_S):
                chunk = os.read(read_fd, 1 << 20)
                if not chunk:
                    return finished
                heard = time.monotonic()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = _event(line)
                    if isinstance(event, Finished):
                        finished = event
                    elif event is not None:
                        on_event(event)
            elif finished is not None or process.poll() is not None:
                return finished
            now = time.monotonic()
            if now - heard > limits.silence_s:
                return Finished(status="timeout", reason=f"the worker said nothing for {limits.silence_s:.0f} s")
            if limits.until_s is not None and now > limits.until_s:
                return Finished(status="timeout", reason="the worker was still busy when the budget had ended")


def _event(line: bytes) -> Event | None:
    try:
        return EVENT.validate_json(line)
    except ValidationError:
        return None  # a line cut off by a crash


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the worker's whole session, whatever is left of it, and collect it."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.2)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _death(code: int, tail: str, oom_killed: bool) -> Finished:
    """What a worker's death without a last word means."""
    if code < 0:
        name = signal.Signals(-code).name
        if oom_killed:
            return Finished(
                status="out_of_memory", reason="host memory: the system's out-of-memory killer ended the worker"
            )
        hint = " (often the system's out-of-memory killer)" if name == "SIGKILL" else ""
        return Finished(status="runtime_error", reason=f"the worker died of {name}{hint}")
    return Finished(status="runtime_error", reason=f"the worker ended with code {code}: {tail}")


def _tail(log: IO[bytes]) -> str:
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - 4096))
    lines = log.read().decode(errors="replace").strip().splitlines()
    return " | ".join(lines[-_LOG_LINES:]) or "it said nothing"


def _oom_kills() -> int:
    """How often the kernel's out-of-memory killer has struck since boot: /proc/vmstat."""
    try:
        rows = dict(line.split() for line in _VMSTAT.read_text().splitlines())
    except OSError:
        return 0
    return int(rows.get("oom_kill", 0))
