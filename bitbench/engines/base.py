"""The protocol every engine answers. Its errors are those of `facts.errors`. Imports nothing heavy."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

from bitbench.facts.messages import Checkpoint
from bitbench.facts.samples import KernelReport
from bitbench.methods.registry import MethodChoice

OnToken = Callable[[], None]
"""Called by the engine each time one more token of every sequence of the batch is there.

An engine whose clock is the device's calls it once, for the first token: to tell of each would make the host wait.
"""


class Supported(NamedTuple):
    """An engine's answer to whether it can run something; `reason` says why not and what to install."""

    ok: bool
    reason: str = ""


class Matrices(NamedTuple):
    """The matrices that a step multiplies by: elements of those in the layers and of lm_head, and the latter's bytes as
    stored.
    """

    layer_elements: int
    head_elements: int
    head_bytes: int


class TextTokens(NamedTuple):
    """A plain text's token ids without any special ones, the BOS that the tokenizer puts before a text by itself (None
    where it puts none), and the tokenizer's name.
    """

    ids: list[int]
    bos_id: int | None
    tokenizer: str


Arithmetic = Literal["16bit", "w8a8"]
"""What a layer multiplies: 16-bit activations, or activations that it rounds to 8 bits itself."""


class LinearLayer(NamedTuple):
    """A layer that multiplies by a matrix, and what it should multiply by.

    `forward` is the layer as it runs: 16-bit activations [1][tokens][in] to [1][tokens][out]. `weight` gives the
    float32 matrix [out][in] that the numbers in the checkpoint file mean, read and dequantized anew, not from the
    layer's own memory; None where this program cannot read them. `bias`: [out] or None. Activations from
    `outlier_threshold` on are not rounded (0: all are).
    """

    name: str
    arithmetic: Arithmetic
    in_features: int
    forward: Callable[[Any], Any]
    weight: Callable[[], Any] | None
    bias: Any | None
    dtype: Any
    device: Any
    outlier_threshold: float = 0.0


class LoadedModel(Protocol):
    """A model in memory, ready to generate greedily with EOS ignored.

    `clock` is the host clock in seconds (scripted in the fake engine). Token ids go in and out as plain lists,
    [batch][length].
    """

    clock: Callable[[], float]

    def encode(self, text: str) -> list[int] | None:
        """Token ids of a user's message under the chat template; None where the model has no tokenizer."""

    def generate(self, ids: Sequence[Sequence[int]], output_len: int, on_token: OnToken | None) -> list[list[int]]:
        """Greedy continuation of a batch of equally long prompts: exactly `output_len` new ids for each.

        Raises OutOfMemory, or Unsupported where it turns out only now that the engine cannot run this method.
        """

    def step_times_s(self) -> tuple[float, ...] | None:
        """Seconds between the output tokens of the last generation, output_len - 1 of them, by the device's clock.

        None where the engine's clock is the host's: then the gaps are those between the calls of `on_token`.
        """

    def top_gaps(self, ids: Sequence[int], num_last: int) -> list[float]:
        """For each of the last `num_last` ids: how far its logit lies below the top one when the model reads all ids
        at once, in standard deviations of that position's logits (0: it is the argmax).
        """

    def logits(self, ids: Sequence[int], num_last: int) -> Any:
        """The logits, [num_last][vocab], from which each of the last ids would be chosen, in the type that the model
        computes them in: by its own forward over all ids at once. Raises OutOfMemory.
        """

    def batch_logits(self, ids: Sequence[Sequence[int]]) -> Any:
        """The logits, [batch][length][vocab], after each id of equally long texts, in the type that the model computes
        them in: by its own forward over all of them at once. Raises OutOfMemory.
        """

    def forced_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any:
        """The logits, float32 [len(forced_ids)][vocab], from which each forced id would be chosen, token by token.

        The prompt is read as `generate` reads it, and each forced id by the very step that `generate` takes, with the
        token given instead of chosen: the same kernels, cache, graph or compiled code. Row 0 comes from the prompt.
        Raises OutOfMemory or Unsupported.
        """

    def eager_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any | None:
        """As `forced_logits`, but by eager transformers' steps over the same layers, whatever drives generation; None
        where the layers are not transformers'. Raises OutOfMemory.
        """

    def text_tokens(self, text: str) -> TextTokens | None:
        """A plain text's tokens, no chat template; None where the model has no tokenizer."""

    def tokenizer(self) -> Any | None:
        """The Hugging Face tokenizer, for a library that wants one; None where the model has none."""

    def linear_layers(self) -> Iterator[LinearLayer]:
        """The decoder's layers that multiply by a matrix, lm_head left out."""

    def synchronize(self) -> None:
        """Wait for all work of the device, on every stream."""

    def weights_bytes(self) -> int:
        """Bytes of the distinct storages that hold weights, quantization state included."""

    def unread_embedding_bytes(self) -> int:
        """Bytes of an input embedding that is not also lm_head; 0 where they are tied."""

    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""

    def kv_cache_bytes(self) -> int:
        """Bytes of the cache that the last generation left."""

    def vocab_size(self) -> int:
        """Number of ids the model knows."""

    def context_len(self) -> int:
        """The longest sequence, prompt and output together, that the model is made for."""

    def kernels(self, batch_size: int = 1) -> KernelReport:
        """What really multiplies, for so many sequences."""

    def matrices(self) -> Matrices:
        """How large the matrices are, whatever they are stored in."""

    def annotated(self) -> AbstractContextManager[None]:
        """While it is open, generation runs module by module, nothing replayed from a graph or compiled, and each
        module's work is an annotation `bitbench:ROLE` in torch's profiler (facts/profile.py, ModuleRole).
        """

    def dtype(self) -> str:
        """The 16-bit type of the activations: `float16` or `bfloat16`."""


class Engine(Protocol):
    """Who drives the model token by token."""

    name: str
    summary: str
    needs: tuple[str, ...]
    itl_clock: Literal["host", "device"]

    def supports(self, choice: MethodChoice, device: str) -> Supported:
        """Whether this engine can run the method, with the kernel asked for, on this device. Imports nothing heavy."""

    def load(self, checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool) -> LoadedModel:
        """Load a checkpoint. Raises LoadError or OutOfMemory, or Unsupported where only the loaded model tells."""
