"""Our own decoder: what a precision is worth when nothing is wasted."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import bitbench.decode.decoder as decoders
from bitbench.decode.step_source import source_hash
from bitbench.decode.steps import Steps
from bitbench.engines import hf_loading
from bitbench.engines.base import LinearLayer, Matrices, OnToken, Supported, TextTokens
from bitbench.engines.memory_errors import memory_errors
from bitbench.engines.packages import missing_packages
from bitbench.engines.tokens import encode, gaps_below_top, text_tokens
from bitbench.facts.errors import Unsupported
from bitbench.facts.messages import Checkpoint
from bitbench.facts.profile import LABEL_PREFIX, ModuleRole
from bitbench.facts.samples import KernelReport
from bitbench.methods.registry import MethodChoice

# What the decoder calls the storage of each method's checkpoint.
_STORED = {
    "fp16": "fp16",
    "int8-wo": "int8-wo",
    "awq-int4": "awq-int4",
    "awq-int4-head8": "awq-int4-head8",
    "rtn-int4": "awq-int4",
}
# A cache that grows in such steps is seldom made anew.
_ROOM_STEP = 256
MakeSteps = Callable[[decoders.Decoder, int], Steps]


class FusedModel:
    """A loaded decoder at batch 1. `make_steps` makes what takes steps, for a number of positions."""

    def __init__(self, decoder: decoders.Decoder, tokenizer: Any, make_steps: MakeSteps) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._decoder, self._tokenizer, self._make_steps = decoder, tokenizer, make_steps
        self._steps: Steps | None = None
        self._annotating = False

    def encode(self, text: str) -> list[int] | None:
        """Token ids under the chat template; None without a tokenizer."""
        return encode(self._tokenizer, text)

    def text_tokens(self, text: str) -> TextTokens | None:
        """A plain text's tokens; None without a tokenizer."""
        return text_tokens(self._tokenizer, text)

    def tokenizer(self) -> Any | None:
        """As it was loaded."""
        return self._tokenizer

    def generate(self, ids: Sequence[Sequence[int]], output_len: int, on_token: OnToken | None) -> list[list[int]]:
        """Greedy continuation, [1][output_len]; `on_token` hears of the first token only.

        Raises Unsupported for a larger batch, or OutOfMemory.
        """
        if len(ids) != 1:
            raise Unsupported(f"the engine fused decodes one sequence at a time, not {len(ids)}")
        prompt = ids[0]
        with memory_errors("generating"):
            steps = self._prepared(len(prompt) + output_len)
            with self._label("model"):
                steps.start(prompt)
            self.synchronize()
            if on_token:
                on_token()
            with self._label("step"):
                steps.advance(output_len - 1)
            return [steps.tokens(len(prompt), output_len)]

    def _prepared(self, room: int) -> Steps:
        if self._steps is None or self._steps.room < room:
            self._steps = None  # the old cache is freed first
            rounded = min(-(-room // _ROOM_STEP) * _ROOM_STEP, self.context_len())
            self._steps = self._make_steps(self._decoder, rounded)
        return self._steps

    def step_times_s(self) -> tuple[float, ...]:
        """The gaps between the tokens of the last generation, by the GPU's own clock, which the kernel reads."""
        return self._steps.step_times_s() if self._steps else ()

    def logits(self, ids: Sequence[int], num_last: int) -> Any:
        """By the plain decoder over all ids at once, float32 [num_last][vocab]. Raises OutOfMemory."""
        with memory_errors("reading a text"):
            return self._decoder.logits(ids[:-1], num_last)

    def forced_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any:
        """Float32 logits of given tokens by the steps that are timed, [len(forced_ids)][vocab]. Raises OutOfMemory."""
        import torch

        with memory_errors("reading a text token by token"):
            steps = self._prepared(len(prompt_ids) + len(forced_ids))
            steps.start(prompt_ids)
            rows = [steps.logits().clone()]
            for token in forced_ids[:-1]:
                steps.force(token)
                steps.advance(1, keep_logits=True)
                rows.append(steps.logits().clone())
            return torch.stack(rows)

    def linear_layers(self) -> Iterator[LinearLayer]:
        """None that could be called alone: a whole step is one kernel, and its logits are what can be checked."""
        return iter(())

    def top_gaps(self, ids: Sequence[int], num_last: int) -> list[float]:
        """By the plain decoder over all ids at once, in standard deviations of each position's logits."""
        import torch

        with torch.inference_mode(), memory_errors("checking tokens"):
            return gaps_below_top(self.logits(ids, num_last), ids)

    def synchronize(self) -> None:
        """Wait for the whole device, all streams."""
        if self._decoder.device != "cpu":
            import torch

            torch.cuda.synchronize(self._decoder.device)

    def weights_bytes(self) -> int:
        """Each matrix once, as a step reads it."""
        return self._decoder.forward.weights.num_bytes

    def unread_embedding_bytes(self) -> int:
        """The input embedding where it is untied."""
        weights = self._decoder.forward.weights
        return 0 if weights.embedding is weights.head else weights.embedding.num_bytes

    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        config = self._decoder.config
        return int(2 * config.num_layers * config.kv_size * self._decoder.dtype.itemsize)

    def kv_cache_bytes(self) -> int:
        """As allocated for the longest sequence so far."""
        return self._steps.kv_cache_bytes() if self._steps else 0

    def vocab_size(self) -> int:
        """Ids the model knows."""
        return self._decoder.config.vocab_size

    def context_len(self) -> int:
        """max_position_embeddings."""
        return self._decoder.config.context_len

    def kernels(self) -> KernelReport:
        """What takes the steps, and how the layers' matrices are stored."""
        matrix = self._decoder.forward.weights.layers[0].qkv
        count = 4 * self._decoder.config.num_layers
        on_gpu = self._decoder.device != "cpu"
        return KernelReport(
            name="step kernel" if on_gpu else "plain",
            module_classes={type(matrix).__name__: count},
            source=source_hash() if on_gpu else None,
        )

    def matrices(self) -> Matrices:
        """From the weights."""
        weights = self._decoder.forward.weights
        shapes = [m.shape for layer in weights.layers for m in (layer.qkv, layer.o, layer.gate_up, layer.down)]
        head = weights.head.shape
        return Matrices(sum(o * i for o, i in shapes), head[0] * head[1], weights.head.num_bytes)

    @contextmanager
    def annotated(self) -> Iterator[None]:
        """One kernel takes the steps, so there are no modules to mark but the launch."""
        self._annotating = True
        try:
            yield
        finally:
            self._annotating = False

    def _label(self, role: ModuleRole) -> AbstractContextManager[Any]:
        if not self._annotating:
            return nullcontext()
        from torch.profiler import record_function

        label: AbstractContextManager[Any] = record_function(LABEL_PREFIX + role)
        return label

    def dtype(self) -> str:
        """float16 or bfloat16."""
        return str(self._decoder.dtype).removeprefix("torch.")


def _step_kernel(decoder: decoders.Decoder, room: int) -> Steps:
    from bitbench.decode.step_kernel import on_cuda

    return on_cuda(decoder.forward, decoder.device, room)


class FusedEngine:
    """Our own decoder."""

    name = "fused"
    summary = "our own decoder: a whole step as one kernel, weights streamed ahead of it; NVIDIA GPUs from sm_90"
    needs = ("torch", "transformers")
    itl_clock: Literal["host", "device"] = "device"

    def supports(self, choice: MethodChoice, device: str) -> Supported:
        """A CUDA device and a method it stores; whether the GPU and the model fit, loading says."""
        if not device.startswith("cuda"):
            return Supported(False, "the engine fused needs a CUDA device: use the engine transformers here")
        if choice.kernel:
            return Supported(False, f"the engine fused has kernels of its own: ask for {choice.method.name}")
        if choice.method.name not in _STORED:
            return Supported(False, f"the engine fused runs {', '.join(_STORED)} and not {choice.method.name}")
        return missing_packages(self.needs)

    def load(self, checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool) -> FusedModel:
        """Load with our own reader. Raises LoadError, Unsupported or OutOfMemory."""
        import torch

        from bitbench.decode.step_kernel import check

        with memory_errors("loading"):
            decoder = decoders.load(Path(checkpoint.path), _STORED[choice.method.name], device)
            check(decoder.config, torch.cuda.get_device_capability(device))
            return FusedModel(decoder, hf_loading.tokenizer_of(checkpoint, trust_remote_code), _step_kernel)


ENGINE = FusedEngine
