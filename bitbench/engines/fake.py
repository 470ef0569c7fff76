"""A deterministic engine with a scripted clock, so that the whole program is tested without noise.

Its speeds are arithmetic, not measurements; device and rows say `fake`. Faults are real: a crash is a SIGSEGV, an
allocation that fails is one. What it does is scripted by the environment variable BITBENCH_FAKE_SCRIPT: JSON of
{method label or "*": {field of Script: value}}.
"""

import ctypes
import json
import os
import random
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from bitbench.engines.base import LinearLayer, Matrices, OnToken, Supported, TextTokens
from bitbench.engines.memory_errors import memory_errors
from bitbench.facts import costs
from bitbench.facts.errors import LoadError
from bitbench.facts.messages import PROCESS_VARIABLE, Checkpoint
from bitbench.facts.models import SHAPES
from bitbench.facts.samples import KernelReport
from bitbench.methods.registry import MethodChoice

SCRIPT_VARIABLE = "BITBENCH_FAKE_SCRIPT"
SHAPE = SHAPES["smollm2-135m"]
# A made-up machine: 100 GB/s read bandwidth, of which a step reaches 40%, and 2 ms of prefill.
BANDWIDTH_BYTES_PER_S = 100e9
_EFFICIENCY = 0.4
_TTFT_S = 0.002
_CERTAIN = 20.0  # a logit that leaves the other 49,151 tokens 0.01% together

Fault = Literal["", "segv", "kill", "hang", "memory", "allocator", "error", "unsupported", "load_error"]
Cheat = Literal["", "stale", "skip", "async", "short", "mute"]


@dataclass(frozen=True, slots=True)
class Script:
    """What the fake does. Spreads are standard deviations of log speed, drawn from a seed for each process.

    `fault` strikes `when`; `cheat`: stale repeats the last output, skip does no work, async returns before the work
    is done, short makes a token too few, mute has equal logits for all tokens where it reads token by token.
    """

    tpot_s: float | None = None
    ttft_s: float = _TTFT_S
    spread_within: float = 0.01
    spread_between: float = 0.01
    fault: Fault = ""
    when: Literal["load", "generate"] = "load"
    cheat: Cheat = ""
    real_s_per_prompt: float = 0.0


def script_for(label: str) -> Script:
    """The script of a method, from the environment."""
    table = json.loads(os.environ.get(SCRIPT_VARIABLE, "{}"))
    return Script(**(table.get("*", {}) | table.get(label, {})))


def strike(fault: Fault) -> None:
    """Let a fault happen for real."""
    if fault == "segv":
        ctypes.string_at(0)
    elif fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hang":
        time.sleep(1e6)
    elif fault == "memory":
        limit = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, limit))
        bytearray(64 << 30)
    elif fault == "allocator":
        import torch

        torch.empty(1 << 50, dtype=torch.int8)
    elif fault == "load_error":
        raise LoadError("scripted: the checkpoint is broken")
    elif fault == "error":
        raise RuntimeError("scripted: the kernel failed")


def next_token(ids: Sequence[int]) -> int:
    """The model: the next id is a fixed function of the last three."""
    a, b, c = (*(0, 0, 0), *ids)[-3:]
    return (a * 31 + b * 17 + c * 7 + 12_345) % SHAPE.vocab_size


class FakeModel:
    """A model that computes `next_token` and moves its own clock."""

    def __init__(self, choice: MethodChoice, script: Script, seed: int) -> None:
        self._choice, self._script = choice, script
        self._now, self._pending = 0.0, 0.0
        self._random = random.Random(f"{choice.label}/{seed}")
        self._process_factor = self._random.lognormvariate(0.0, script.spread_between)
        self._last: list[list[int]] = []
        self._kv_cache_bytes = 0

    def clock(self) -> float:
        """The scripted time, seconds."""
        return self._now

    def encode(self, text: str) -> list[int] | None:
        """None: the fake has no tokenizer."""
        return None

    def generate(self, ids: Sequence[Sequence[int]], output_len: int, on_token: OnToken | None) -> list[list[int]]:
        """Continue each row by `next_token`, moving the clock for each token."""
        script = self._script
        if script.when == "generate":
            with memory_errors("generating"):
                strike(script.fault)
        if script.real_s_per_prompt:
            time.sleep(script.real_s_per_prompt)
        factor = self._process_factor * self._random.lognormvariate(0.0, script.spread_within)
        rows = [list(row) for row in ids]
        for step in range(output_len):
            self._pass_time((script.ttft_s if step == 0 else self._tpot_s()) * factor)
            if on_token:
                on_token()
            for row in rows:
                row.append(next_token(row))
        self._kv_cache_bytes = len(rows) * len(rows[0]) * self.kv_bytes_per_token()
        new = [row[-output_len:] for row in rows]
        return self._cheated(new)

    def _pass_time(self, seconds: float) -> None:
        if self._script.cheat == "skip":
            self._now += seconds / 1000
        elif self._script.cheat == "async":
            self._pending += seconds
            self._now += seconds / 1000
        else:
            self._now += seconds

    def _cheated(self, new: list[list[int]]) -> list[list[int]]:
        before, self._last = self._last or new, new
        if self._script.cheat == "stale":
            return [row[: len(new[0])] + new[0][len(row) :] for row in before]
        return [row[:-1] for row in new] if self._script.cheat == "short" else new

    def _tpot_s(self) -> float:
        if self._script.tpot_s is not None:
            return self._script.tpot_s
        return self.weights_bytes() / (BANDWIDTH_BYTES_PER_S * _EFFICIENCY)

    def step_times_s(self) -> tuple[float, ...] | None:
        """None: the scripted clock is the host's."""
        return None

    def top_gaps(self, ids: Sequence[int], num_last: int) -> list[float]:
        """0 where the id is `next_token` of what precedes it, else 5 standard deviations."""
        first = len(ids) - num_last
        return [0.0 if ids[i] == next_token(ids[:i]) else 5.0 for i in range(first, len(ids))]

    def logits(self, ids: Sequence[int], num_last: int) -> Any:
        """`_CERTAIN` at `next_token`, 0 elsewhere, float32 [num_last][vocab]."""
        import torch

        rows_NV = torch.zeros(num_last, SHAPE.vocab_size)
        for row, end in enumerate(range(len(ids) - num_last, len(ids))):
            rows_NV[row, next_token(ids[:end])] = _CERTAIN
        return rows_NV

    def batch_logits(self, ids: Sequence[Sequence[int]]) -> Any:
        """Like `logits`, after each id, [batch][length][vocab]."""
        import torch

        return torch.stack([self.logits([*row, 0], len(row)) for row in ids])

    def forced_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any:
        """The same as `logits`: there is one path only."""
        rows_NV = self.logits([*prompt_ids, *forced_ids], len(forced_ids))
        return rows_NV * 0 if self._script.cheat == "mute" else rows_NV

    def eager_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any | None:
        """None: no layers are transformers'."""
        return None

    def text_tokens(self, text: str) -> TextTokens | None:
        """None: the fake has no tokenizer."""
        return None

    def tokenizer(self) -> Any | None:
        """None."""
        return None

    def linear_layers(self) -> Iterator[LinearLayer]:
        """There are no layers."""
        return iter(())

    def synchronize(self) -> None:
        """Let the clock catch up with work left running."""
        self._now, self._pending = self._now + self._pending, 0.0

    def weights_bytes(self) -> int:
        """By arithmetic from the shape."""
        return costs.weights_bytes(SHAPE, self._choice.method.scheme)

    def unread_embedding_bytes(self) -> int:
        """0: tied."""
        return 0

    def kv_bytes_per_token(self) -> int:
        """By arithmetic from the shape."""
        return costs.kv_bytes_per_token(SHAPE)

    def kv_cache_bytes(self) -> int:
        """By arithmetic."""
        return self._kv_cache_bytes

    def vocab_size(self) -> int:
        """Of the shape."""
        return SHAPE.vocab_size

    def context_len(self) -> int:
        """Of the shape."""
        return SHAPE.max_positions

    def kernels(self, batch_size: int = 1) -> KernelReport:
        """No kernel at all."""
        return KernelReport(name="fake", module_classes={"Fake": SHAPE.num_layers})

    def matrices(self) -> Matrices:
        """Of the shape."""
        layer = sum(i * o for _, i, o in SHAPE.linear_shapes)
        head = SHAPE.vocab_size * SHAPE.hidden_size
        return Matrices(layer * SHAPE.num_layers, head, 2 * head)

    def annotated(self) -> AbstractContextManager[None]:
        """There are no modules."""
        return nullcontext()

    def dtype(self) -> str:
        """As the method says."""
        return "bfloat16" if self._choice.method.name == "bf16" else "float16"


class FakeEngine:
    """The scripted engine."""

    name = "fake"
    summary = "deterministic, with a scripted clock: for tests and for trying the program, measures nothing"
    needs: tuple[str, ...] = ()
    itl_clock: Literal["host", "device"] = "host"

    def supports(self, choice: MethodChoice, device: str) -> Supported:
        """Everything, unless scripted otherwise; only on the device `fake`."""
        if script_for(choice.label).fault == "unsupported":
            return Supported(False, "scripted: not supported")
        return Supported(device == "fake", "the fake engine runs on the device 'fake' only")

    def load(self, checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool) -> FakeModel:
        """Nothing to load; a scripted fault strikes here."""
        script = script_for(choice.label)
        if script.when == "load":
            with memory_errors("loading"):
                strike(script.fault)
        return FakeModel(choice, script, seed=int(os.environ.get(PROCESS_VARIABLE, "0")))


ENGINE = FakeEngine
