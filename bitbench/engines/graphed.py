"""The method's own modules and kernels as transformers loads them, with the host taken out of decoding.

A decode step, argmax included, is captured once in a CUDA graph and repeated with one launch a token.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from bitbench.engines import hf_loading
from bitbench.engines.base import OnToken, Supported
from bitbench.engines.capture import capture
from bitbench.engines.hf_model import HuggingFaceModel
from bitbench.engines.memory_errors import memory_errors
from bitbench.engines.static_step import StaticStepper
from bitbench.engines.step_clock import StepClock
from bitbench.facts.messages import Checkpoint
from bitbench.methods.registry import MethodChoice

# Attention kernels like round lengths, and a cache that grows in such steps is seldom made anew.
CACHE_LEN_STEP = 64
_KNOWN_WAITS = {
    "bnb-int8": "LLM.int8() at threshold 6 asks the device about outliers in every layer (bnb-int8-t0 does not)",
}


class GraphedModel(HuggingFaceModel):
    """A model whose decode step is one CUDA graph.

    There is one cache and one graph at a time, for the batch size and the longest sequence met so far, rounded up:
    they are made anew when a generation needs more, and never for one that needs less. So once warm-up has met the
    longest sequence nothing is captured any more, and all prompts are decoded under equal conditions.
    With `captured=False` the step runs as it is: on a CPU, and for a profiler that wants to see every operation.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: str, known_wait: str = "", captured: bool | None = None
    ) -> None:
        super().__init__(model, tokenizer, device)
        self._known_wait = known_wait
        self._captured = device != "cpu" if captured is None else captured
        self._clock = StepClock(device)
        self._ready: tuple[StaticStepper, Callable[[], None]] | None = None

    def generate(self, ids: Sequence[Sequence[int]], output_len: int, on_token: OnToken | None) -> list[list[int]]:
        """Greedy continuation, [batch][output_len]; `on_token` hears of the first token only.

        Raises Unsupported where a step cannot be captured, or OutOfMemory.
        """
        import torch

        prompt_len = len(ids[0])
        with torch.inference_mode(), memory_errors("generating"):
            stepper, step = self._prepared(len(ids), prompt_len + output_len - 1)
            stepper.start(torch.tensor([list(row) for row in ids], device=self._device))
            self.synchronize()
            if on_token:
                on_token()
            self._clock.time_steps(step, output_len - 1)
            return stepper.output(prompt_len, output_len)

    def forced_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any:
        """By the captured step, its token overwritten before each replay. Raises Unsupported or OutOfMemory."""
        import torch

        with torch.inference_mode(), memory_errors("reading a text token by token"):
            stepper, step = self._prepared(1, len(prompt_ids) + len(forced_ids) - 1)
            first_V = stepper.start(torch.tensor([list(prompt_ids)], device=self._device))[0]
            rows = [first_V.float()]
            for token in forced_ids[:-1]:
                stepper.force(token)
                step()
                rows.append(stepper.step_logits()[0].to(torch.float32, copy=True))  # the next step overwrites them
            return torch.stack(rows)

    def _prepared(self, batch_size: int, cache_len: int) -> tuple[StaticStepper, Callable[[], None]]:
        """A stepper with room for `cache_len` tokens and the function that takes a step of it."""
        if self._ready is not None and _fits(self._ready[0], batch_size, cache_len):
            return self._ready
        self._ready = None  # the old cache and graph are freed before the new ones are made
        rounded = -(-cache_len // CACHE_LEN_STEP) * CACHE_LEN_STEP
        self._ready = self._made(StaticStepper(self._model, batch_size, rounded))
        self._kv_cache_bytes = self._ready[0].kv_cache_bytes()
        return self._ready

    def _made(self, stepper: StaticStepper) -> tuple[StaticStepper, Callable[[], None]]:
        """Allocate keys and values by a prompt of two tokens, then capture; `start` forgets what warm-up left."""
        import torch

        stepper.start(torch.zeros(stepper.batch_size, 2, dtype=torch.long, device=self._device))
        if not self._captured:
            return stepper, stepper.step
        return stepper, capture(stepper.step, self._device, self._known_wait)

    @contextmanager
    def annotated(self) -> Iterator[None]:
        """Hooks on the modules, and the step as it is instead of its graph: the same kernels in the same order."""
        captured, self._captured, self._ready = self._captured, False, None
        try:
            with super().annotated():
                yield
        finally:
            self._captured, self._ready = captured, None

    def step_times_s(self) -> tuple[float, ...]:
        """The gaps between the tokens of the last generation, by CUDA events."""
        return self._clock.gaps_s()


def _fits(stepper: StaticStepper, batch_size: int, cache_len: int) -> bool:
    return stepper.batch_size == batch_size and stepper.cache_len >= cache_len


class GraphedEngine:
    """transformers' modules in a CUDA graph."""

    name = "graphed"
    summary = "transformers' own modules and kernels, each decode step replayed as one CUDA graph: no host in between"
    needs = hf_loading.NEEDS
    itl_clock: Literal["host", "device"] = "device"

    def supports(self, choice: MethodChoice, device: str) -> Supported:
        """A CUDA device and the packages. Whether a method can be captured is found out by trying."""
        if not device.startswith("cuda"):
            return Supported(False, "a CUDA graph needs a CUDA device: use the engine transformers or compiled here")
        return hf_loading.supports(self.needs, choice, device)

    def load(self, checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool) -> GraphedModel:
        """Load as transformers does. Raises LoadError or OutOfMemory."""
        model, tokenizer = hf_loading.load(checkpoint, choice, device, trust_remote_code)
        return GraphedModel(model, tokenizer, device, _KNOWN_WAITS.get(choice.method.name, ""))


ENGINE = GraphedEngine
