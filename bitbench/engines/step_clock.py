"""Marks between decode steps on the device's own clock."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any


class StepClock:
    """CUDA events, made once and recorded anew by each generation; they make neither host nor device wait.

    On a CPU, which finishes a step before it returns, the host's clock is the device's.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._events: list[Any] = []
        self._times_s: list[float] = []
        self._num_marks = 0
        self._stream: Any = None

    def restart(self) -> None:
        """Begin a new generation, whose marks lie in the stream that is the device's current one now."""
        self._num_marks = 0
        self._times_s.clear()
        if self._device != "cpu":
            import torch

            self._stream = torch.cuda.current_stream(self._device)

    def mark(self) -> None:
        """Mark the moment when all work given to the stream so far is done."""
        self._num_marks += 1
        if self._device == "cpu":
            self._times_s.append(time.perf_counter())
            return
        if len(self._events) < self._num_marks:
            import torch

            self._events.append(torch.cuda.Event(enable_timing=True))
        self._events[self._num_marks - 1].record(self._stream)

    def time_steps(self, step: Callable[[], None], num_steps: int) -> None:
        """Take the steps of a new generation, with a mark before the first and after each."""
        self.restart()
        self.mark()
        for _ in range(num_steps):
            step()
            self.mark()

    def gaps_s(self) -> tuple[float, ...]:
        """Seconds between consecutive marks. Waits for the last one."""
        if self._device == "cpu":
            return tuple(after - before for before, after in pairwise(self._times_s))
        marks = self._events[: self._num_marks]
        if marks:
            marks[-1].synchronize()
        return tuple(before.elapsed_time(after) / 1000 for before, after in pairwise(marks))  # elapsed_time is in ms
