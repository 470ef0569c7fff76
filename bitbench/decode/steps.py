"""Greedy decoding step by step: what an engine drives. `StepKernel` answers this too, by one kernel for many steps."""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

from bitbench.decode.config import DecoderConfig
from bitbench.decode.forward import Forward, KVCache, new_cache


class Steps(Protocol):
    """`start` reads a prompt and chooses its first token, `advance` chooses more.

    Sequences of a batch are equally long. What does not say `all` reads of the first, and writes to each the same.
    """

    room: int
    batch_size: int
    one_launch: bool
    """Whether `advance` is a single launch, which may wait in the device's queue behind the prompt."""

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

    def start_all(self, ids: Sequence[Sequence[int]]) -> None:
        """Read a prompt for each sequence."""

    def force_all(self, tokens: Sequence[int]) -> None:
        """The next step reads these tokens instead of those chosen."""

    def all_logits(self) -> Any:
        """float32 [batch, vocab], like `logits`."""

    def all_tokens(self, first: int, count: int) -> list[list[int]]:
        """Like `tokens`, [batch][count]."""


class FirstOfAll:
    """One sequence's side of what runs a batch."""

    def start(self: Steps, ids: Sequence[int]) -> None:
        """Read the same prompt in each sequence."""
        self.start_all([ids] * self.batch_size)

    def force(self: Steps, token: int) -> None:
        """The next step of each sequence reads this token."""
        self.force_all([token] * self.batch_size)

    def logits(self: Steps) -> Any:
        """float32 [vocab], of the last step or the prompt."""
        return self.all_logits()[0]

    def tokens(self: Steps, first: int, count: int) -> list[int]:
        """The tokens chosen for these positions."""
        return self.all_tokens(first, count)[0]


class WithCache(FirstOfAll):
    """And what is kept of a batch: logits [batch, vocab], tokens by position [batch, room + 1], and the cache."""

    one_launch = False
    _logits: Any
    _output: Any
    _cache: KVCache

    def all_logits(self) -> Any:
        """float32 [batch, vocab], of the last step or the prompts."""
        return self._logits

    def all_tokens(self, first: int, count: int) -> list[list[int]]:
        """The tokens chosen for these positions. Waits for the device."""
        found: list[list[int]] = self._output[:, first : first + count].tolist()
        return found

    def kv_cache_bytes(self) -> int:
        """Keys and values, as allocated."""
        return int(self._cache.keys.nbytes + self._cache.values.nbytes)


class PlainSteps(WithCache):
    """The plain forward, a token at a time, on any device."""

    def __init__(
        self, config: DecoderConfig, forward: Forward, dtype: Any, device: str, room: int, *, batch_size: int = 1
    ) -> None:
        import torch

        self.room, self.batch_size = room, batch_size
        self._forward, self._device = forward, device
        self._cache = new_cache(config, batch_size, room, dtype, device)
        self._output = torch.zeros(batch_size, room + 1, dtype=torch.long, device=device)
        self._logits = torch.zeros(batch_size, config.vocab_size, device=device)
        self._ends_s: list[float] = []

    def start_all(self, ids: Sequence[Sequence[int]]) -> None:
        """Read the prompts."""
        import torch

        self._cache.length = 0
        self._append(torch.tensor([list(row) for row in ids], device=self._device))

    def advance(self, num_steps: int, keep_logits: bool = False) -> None:
        """So many more tokens."""
        self._ends_s = [time.perf_counter()]
        for _ in range(num_steps):
            self._append(self._output[:, self._cache.length, None])
            self._ends_s.append(time.perf_counter())

    def step_times_s(self) -> tuple[float, ...]:
        """By the host's clock."""
        return tuple(after - before for before, after in pairwise(self._ends_s))

    def _append(self, ids_BS: Any) -> None:
        import torch

        with torch.inference_mode():
            self._logits.copy_(self._forward.logits(ids_BS, self._cache)[:, -1])
            self._output[:, self._cache.length] = self._logits.argmax(dim=-1)

    def force_all(self, tokens: Sequence[int]) -> None:
        """The next step reads these tokens instead of those chosen."""
        import torch

        with torch.inference_mode():
            self._output[:, self._cache.length] = torch.as_tensor(tokens, device=self._device)
