"""A causal language model as transformers loads it: everything an engine answers except how tokens are generated.

Shared by the engines that differ only in who drives these modules.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from bitbench.engines.annotate import annotated
from bitbench.engines.base import LinearLayer, Matrices, OnToken, TextTokens
from bitbench.engines.hf_generate import forced_logits
from bitbench.engines.linear_layers import linear_layers
from bitbench.engines.memory_errors import memory_errors
from bitbench.engines.tokens import encode, gaps_below_top, text_tokens
from bitbench.engines.weights import unread_embedding_bytes, weights_bytes
from bitbench.facts.samples import KernelReport

_KERNEL_NAMES = {
    "Linear8bitLt": "bitsandbytes int8",
    "Linear4bit": "bitsandbytes 4-bit",
    "AwqMarlinLinear": "marlin",
    "AwqGEMMLinear": "AutoAWQ gemm",
    "TorchAtenAwqLinear": "ATen int4",
}
_CPU_KERNEL_NAMES = {"Linear": "ATen", "Int8RowsLinear": "ATen int8"}
_CUDA_KERNEL_NAMES = {"Linear": "cuBLAS", "Int8RowsLinear": "dequantize, then cuBLAS"}


class HuggingFaceModel:
    """A loaded Hugging Face causal language model. Subclasses say how it generates."""

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._kv_cache_bytes = 0

    def encode(self, text: str) -> list[int] | None:
        """Token ids under the chat template; None without a tokenizer."""
        return encode(self._tokenizer, text)

    def generate(self, ids: Sequence[Sequence[int]], output_len: int, on_token: OnToken | None) -> list[list[int]]:
        """Greedy continuation, [batch][output_len]. Raises OutOfMemory."""
        raise NotImplementedError

    def step_times_s(self) -> tuple[float, ...] | None:
        """None: the gaps between tokens are on the host's clock."""
        return None

    def logits(self, ids: Sequence[int], num_last: int) -> Any:
        """The logits, [num_last][vocab], from which each of the last ids would be chosen, in the model's type.

        By the model's own eager forward over all ids at once, whatever drives generation. Raises OutOfMemory.
        """
        import torch

        with torch.inference_mode(), memory_errors("reading a text"):
            tokens = torch.tensor([list(ids)], device=self._device)
            return self._model(tokens, logits_to_keep=num_last + 1, use_cache=False).logits[0, :-1]

    def batch_logits(self, ids: Sequence[Sequence[int]]) -> Any:
        """By the model's own eager forward, [batch][length][vocab]. Raises OutOfMemory."""
        import torch

        with torch.inference_mode(), memory_errors("reading texts"):
            return self._model(torch.tensor([list(row) for row in ids], device=self._device), use_cache=False).logits

    def top_gaps(self, ids: Sequence[int], num_last: int) -> list[float]:
        """Gap below the top logit at each of the last ids, in standard deviations of that position's logits."""
        import torch

        with torch.inference_mode(), memory_errors("checking tokens"):
            return gaps_below_top(self.logits(ids, num_last), ids)

    def forced_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any:
        """Float32 logits of given tokens by the engine's own steps, [len(forced_ids)][vocab]. Raises OutOfMemory."""
        raise NotImplementedError

    def eager_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any:
        """By `generate` of transformers with its own cache, which is given each token. Raises OutOfMemory."""
        import torch

        with torch.inference_mode(), memory_errors("reading a text token by token"):
            return forced_logits(self._model, prompt_ids, forced_ids)

    def text_tokens(self, text: str) -> TextTokens | None:
        """The text's tokens; a BOS where the tokenizer adds one to a text by itself (Llama's does, Qwen's does not)."""
        return text_tokens(self._tokenizer, text)

    def tokenizer(self) -> Any | None:
        """As it was loaded."""
        return self._tokenizer

    def linear_layers(self) -> Iterator[LinearLayer]:
        """With the numbers of the checkpoint that it was loaded from."""
        return linear_layers(self._model)

    def synchronize(self) -> None:
        """Wait for the whole device, all streams."""
        if self._device != "cpu":
            import torch

            torch.cuda.synchronize(self._device)

    def weights_bytes(self) -> int:
        """Distinct storages that hold weights."""
        return weights_bytes(self._model)

    def unread_embedding_bytes(self) -> int:
        """The input embedding where it is untied."""
        return unread_embedding_bytes(self._model)

    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token, from the config."""
        config = self._model.config.get_text_config()
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        return int(2 * config.num_hidden_layers * kv_heads * head_dim * self._model.dtype.itemsize)

    def kv_cache_bytes(self) -> int:
        """The cache of the last generation."""
        return self._kv_cache_bytes

    def vocab_size(self) -> int:
        """Ids the model knows."""
        return int(self._model.config.get_text_config().vocab_size)

    def context_len(self) -> int:
        """max_position_embeddings."""
        return int(self._model.config.get_text_config().max_position_embeddings)

    def kernels(self, batch_size: int = 1) -> KernelReport:
        """Classes of the modules in the decoder's layers that hold a matrix."""
        head = self._model.get_output_embeddings()
        counts = Counter(
            type(module).__name__
            for module in self._model.modules()
            if module is not head and hasattr(module, "in_features")
        )
        first = counts.most_common(1)[0][0] if counts else "none"
        name, of_head = (_kernel_name(kind, self._device) for kind in (first, type(head).__name__))
        if type(head).__name__ == "Int8RowsLinear" and of_head != name:
            name = f"{name}, lm_head {of_head}"
        return KernelReport(name=name, module_classes=dict(counts))

    def matrices(self) -> Matrices:
        """From the modules that hold a matrix, whatever they store it in."""
        head = self._model.get_output_embeddings()
        sizes = {
            module: int(module.in_features * module.out_features)
            for module in self._model.modules()
            if hasattr(module, "in_features") and hasattr(module, "out_features")
        }
        head_elements = sizes.pop(head, 0)
        return Matrices(sum(sizes.values()), head_elements, weights_bytes(head))

    def annotated(self) -> AbstractContextManager[None]:
        """Hooks on the modules."""
        return annotated(self._model)

    def dtype(self) -> str:
        """float16 or bfloat16."""
        return str(self._model.dtype).removeprefix("torch.")


def _kernel_name(module_class: str, device: str) -> str:
    names = _KERNEL_NAMES | (_CPU_KERNEL_NAMES if device == "cpu" else _CUDA_KERNEL_NAMES)
    return names.get(module_class, module_class)
