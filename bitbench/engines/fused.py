"""Our own decoder: what a precision is worth when nothing is wasted."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import bitbench.decode.decoder as decoders
from bitbench.decode import paths, tuning
from bitbench.decode.hardware import hardware_of
from bitbench.decode.steps import Steps
from bitbench.decode.triton_steps import check_tools
from bitbench.engines import hf_loading
from bitbench.engines.base import LinearLayer, Matrices, OnToken, Supported, TextTokens
from bitbench.engines.memory_errors import memory_errors
from bitbench.engines.packages import missing_packages
from bitbench.engines.tokens import encode, gaps_below_top, text_tokens
from bitbench.facts.errors import Unsupported
from bitbench.facts.messages import Checkpoint
from bitbench.facts.profile import LABEL_PREFIX, ModuleRole
from bitbench.facts.samples import UNTUNED, KernelReport
from bitbench.methods.registry import MethodChoice

# What the decoder calls the storage of each method's checkpoint.
STORED = {
    "fp16": "fp16",
    "int8-wo": "int8-wo",
    "fp8-wo": "fp8-wo",
    "awq-int4": "awq-int4",
    "awq-int4-head8": "awq-int4-head8",
    "rtn-int4": "awq-int4",
}


class FusedModel:
    """A loaded decoder."""

    def __init__(self, decoder: decoders.Decoder, tokenizer: Any) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._decoder, self._tokenizer = decoder, tokenizer
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
        """Greedy continuation, [batch][output_len]; `on_token` hears of the first token only.

        Raises Unsupported for a larger batch than the kernels are for, or OutOfMemory.
        """
        if len(ids) > decoders.MAX_BATCH:
            raise Unsupported(f"the engine fused decodes up to {decoders.MAX_BATCH} sequences at once, not {len(ids)}")
        prompt_len = len(ids[0])
        with memory_errors("generating"):
            steps = self._decoder.prepared(len(ids), prompt_len + output_len)
            with self._label("model"):
                steps.start_all(ids)
            if steps.one_launch:  # behind the prompt, whose end is waited for: launching takes the host 0.1 ms
                read = self._now()
                self._advance(steps, output_len - 1)
                read.synchronize()
            else:
                self.synchronize()
            if on_token:
                on_token()
            if not steps.one_launch:
                self._advance(steps, output_len - 1)
            return steps.all_tokens(prompt_len, output_len)

    def _advance(self, steps: Steps, num_steps: int) -> None:
        with self._label("step"):
            steps.advance(num_steps)

    def _now(self) -> Any:
        """An event of the device that ends when all that was launched before has ended."""
        import torch

        with torch.cuda.device(self._decoder.device):
            event = torch.cuda.Event()
            event.record()
        return event

    def step_times_s(self) -> tuple[float, ...]:
        """The gaps between the tokens of the last generation, by the GPU's own clock."""
        steps = self._decoder.steps
        return steps.step_times_s() if steps else ()

    def logits(self, ids: Sequence[int], num_last: int) -> Any:
        """By the plain decoder over all ids at once, float32 [num_last][vocab]. Raises OutOfMemory."""
        with memory_errors("reading a text"):
            return self._decoder.logits(ids[:-1], num_last)

    def batch_logits(self, ids: Sequence[Sequence[int]]) -> Any:
        """By the plain decoder over all ids at once, float32 [batch][length][vocab]. Raises OutOfMemory."""
        with memory_errors("reading texts"):
            return self._decoder.batch_logits(ids)

    def forced_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any:
        """Float32 logits of given tokens by the steps that are timed, [len(forced_ids)][vocab]. Raises OutOfMemory.

        After a batch was generated these are a batch's steps, all of whose sequences are this one.
        """
        import torch

        with memory_errors("reading a text token by token"):
            batch_size = self._decoder.steps.batch_size if self._decoder.steps else 1
            steps = self._decoder.prepared(batch_size, len(prompt_ids) + len(forced_ids))
            steps.start(prompt_ids)
            rows = [steps.logits().clone()]
            for token in forced_ids[:-1]:
                steps.force(token)
                steps.advance(1, keep_logits=True)
                rows.append(steps.logits().clone())
            return torch.stack(rows)

    def eager_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any | None:
        """None: the layers are its own."""
        return None

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
        return self._decoder.steps.kv_cache_bytes() if self._decoder.steps else 0

    def vocab_size(self) -> int:
        """Ids the model knows."""
        return self._decoder.config.vocab_size

    def context_len(self) -> int:
        """max_position_embeddings."""
        return self._decoder.config.context_len

    def kernels(self, batch_size: int = 1) -> KernelReport:
        """What takes the steps of so many sequences, and how the layers' matrices are stored."""
        matrix = self._decoder.forward.weights.layers[0].qkv
        count = 4 * self._decoder.config.num_layers
        device = self._decoder.device
        path = paths.choose_on(self._decoder.forward, device, batch_size)
        source = paths.source_hash(path, hardware_of(device))
        classes = {matrix.kind.__name__: count}
        return KernelReport(name=self._name(path, batch_size), module_classes=classes, source=source)

    def _name(self, path: paths.Path, batch_size: int) -> str:
        """With whether the block sizes of all of Triton's products were measured on such a GPU."""
        if path != "Triton":
            return path
        import torch

        properties = torch.cuda.get_device_properties(self._decoder.device)
        measured = tuning.for_gpu(properties.name, (properties.major, properties.minor)).measured
        keys = tuning.product_keys(self._decoder.forward.weights, batch_size)
        return f"Triton, {'tuned' if keys <= measured else UNTUNED}"

    def matrices(self) -> Matrices:
        """From the weights."""
        weights = self._decoder.forward.weights
        shapes = [m.shape for layer in weights.layers for m in layer.matrices]
        head = weights.head.shape
        return Matrices(sum(o * i for o, i in shapes), head[0] * head[1], weights.head.num_bytes)

    @contextmanager
    def annotated(self) -> Iterator[None]:
        """One kernel or one graph takes a step, so there are no modules to mark but the launch."""
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


class FusedEngine:
    """Our own decoder."""

    name = "fused"
    summary = (
        "our own decoder on NVIDIA GPUs: a whole step as one kernel from sm_80 for up to 8 sequences, else a graph of "
        "Triton kernels, from sm_75 and up to batch 16"
    )
    needs = ("torch", "transformers")
    itl_clock: Literal["host", "device"] = "device"

    def supports(self, choice: MethodChoice, device: str) -> Supported:
        """A CUDA device and a method it stores; whether the GPU and the model fit, loading says."""
        if not device.startswith("cuda"):
            return Supported(False, "the engine fused needs a CUDA device: use the engine transformers here")
        if choice.kernel:
            return Supported(False, f"the engine fused has kernels of its own: ask for {choice.method.name}")
        if choice.method.name not in STORED:
            return Supported(False, f"the engine fused runs {', '.join(STORED)} and not {choice.method.name}")
        return missing_packages(self.needs)

    def load(self, checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool) -> FusedModel:
        """Load with our own reader. Raises LoadError, Unsupported or OutOfMemory."""
        with memory_errors("loading"):
            decoder = decoders.load(Path(checkpoint.path), STORED[choice.method.name], device)
            if paths.choose_on(decoder.forward, device, 1) == "Triton":
                check_tools()
            return FusedModel(decoder, hf_loading.tokenizer_of(checkpoint, trust_remote_code))


ENGINE = FusedEngine
