"""Greedy decoding step by step: what an engine drives. `StepKernel` answers this too, by one kernel for many steps."""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

from bitbench.decode.config import DecoderConfig
from bitbench.decode.forward import Forward, new_cache


class Steps(Protocol):
    """One sequence: `start` reads a prompt and chooses its first token, `advance` chooses more."""

    room: int

    def start(self, ids: Sequence[int]) -> None:
        """Read the prompt."""

    def advance(self, num_steps: int, keep_logits: bool = False) -> None:
        """So many more tokens; the host need not wait for them. The caller sees to it that there is room."""

    def step_times_s(self) -> tuple[float, ...]:
        """Seconds of each step of the last `advance`. Waits for it."""

    def force(self, token: int) -> None:
        """The next step reads this token instead of the one chosen."""

    def logits(self) -> Any:
        """float32 [vocab], of the prompt or the last step that kept them; overwritten by the next."""

    def tokens(self, first: int, count: int) -> list[int]:
        """The tokens chosen for these positions. Waits for the device."""

    def kv_cache_bytes(self) -> int:
        """Keys and values, as allocated."""


class PlainSteps:
    """The plain forward, a token at a time, on any device."""

    def __init__(self, config: DecoderConfig, forward: Forward, dtype: Any, device: str, room: int) -> None:
        import torch

        self.room = room
        self._forward, self._device = forward, device
        self._cache = new_cache(config, 1, room, dtype, device)
        self._output = torch.zeros(room + 1, dtype=torch.long, device=device)
        self._logits = torch.zeros(config.vocab_size, device=device)
        self._ends_s: list[float] = []

    def start(self, ids: Sequence[int]) -> None:
        """Read the prompt."""
        import torch

        self._cache.length = 0
        self._append(torch.tensor([list(ids)], device=self._device))

    def advance(self, num_steps: int, keep_logits: bool = False) -> None:
        """So many more tokens."""
        self._ends_s = [time.perf_counter()]
        for _ in range(num_steps):
            self._append(self._output[self._cache.length].reshape(1, 1))
            self._ends_s.append(time.perf_counter())

    def step_times_s(self) -> tuple[float, ...]:
        """By the host's clock."""
        return tuple(after - before for before, after in pairwise(self._ends_s))

    def _append(self, ids_1S: Any) -> None:
        import torch

        with torch.inference_mode():
            self._logits.copy_(self._forward.logits(ids_1S, self._cache)[0, -1])
            self._output[self._cache.length] = self._logits.argmax()

    def force(self, token: int) -> None:
        """The next step reads this token instead of the one chosen."""
        self._output[self._cache.length] = token

    def logits(self) -> Any:
        """float32 [vocab], of the last step or the prompt."""
        return self._logits

    def tokens(self, first: int, count: int) -> list[int]:
        """The tokens chosen for these positions."""
        found: list[int] = self._output[first : first + count].tolist()
        return found

    def kv_cache_bytes(self) -> int:
        """Keys and values, as allocated."""
        return int(self._cache.keys.nbytes + self._cache.values.nbytes)
