"""transformers as people call it today: eager `generate`, dynamic cache, greedy."""

from collections.abc import Sequence
from typing import Any, Literal

from bitbench.engines import hf_loading
from bitbench.engines.base import OnToken, Supported
from bitbench.engines.hf_generate import generate
from bitbench.engines.hf_model import HuggingFaceModel
from bitbench.engines.memory_errors import memory_errors
from bitbench.facts.messages import Checkpoint
from bitbench.methods.registry import MethodChoice


class TransformersModel(HuggingFaceModel):
    """A model that transformers drives eagerly."""

    def generate(self, ids: Sequence[Sequence[int]], output_len: int, on_token: OnToken | None) -> list[list[int]]:
        """Greedy continuation, [batch][output_len]. Raises OutOfMemory."""
        import torch

        with torch.inference_mode(), memory_errors("generating"):
            new, self._kv_cache_bytes = generate(self._model, ids, output_len, on_token)
        return new

    def forced_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any:
        """By `generate`, which is given each token. Raises OutOfMemory."""
        return self.eager_logits(prompt_ids, forced_ids)


class TransformersEngine:
    """Eager transformers."""

    name = "transformers"
    summary = "transformers' eager generate with a dynamic cache: what people run today"
    needs = hf_loading.NEEDS
    itl_clock: Literal["host", "device"] = "host"

    def supports(self, choice: MethodChoice, device: str) -> Supported:
        """Packages, and kernels that need a GPU."""
        return hf_loading.supports(self.needs, choice, device)

    def load(
        self, checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool
    ) -> TransformersModel:
        """Load with `from_pretrained` straight to the device. Raises LoadError or OutOfMemory."""
        model, tokenizer = hf_loading.load(checkpoint, choice, device, trust_remote_code)
        return TransformersModel(model, tokenizer, device)


ENGINE = TransformersEngine
