"""transformers with a static cache and torch.compile, the way its own documentation offers it."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from bitbench.engines import hf_loading
from bitbench.engines.base import OnToken, Supported
from bitbench.engines.hf_generate import forced_logits, generate
from bitbench.engines.hf_model import HuggingFaceModel
from bitbench.engines.memory_errors import memory_errors
from bitbench.facts.errors import Unsupported
from bitbench.facts.messages import Checkpoint
from bitbench.methods.registry import MethodChoice

# Each cache length is compiled for itself, which takes up to minutes, so lengths are rounded up generously: the short
# outputs that are checked first and the measured ones should share one. The places too many are masked.
CACHE_LEN_STEP = 256


class CompiledModel(HuggingFaceModel):
    """A model whose `generate` compiles its decode step: the first generations take seconds to minutes.

    There is one static cache at a time, as long as the longest sequence met so far, rounded up, so that shorter ones
    compile nothing new. It is emptied and used again: `generate` would make a new one each time, and a recorded CUDA
    graph is of no use once the cache lies elsewhere.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        super().__init__(model, tokenizer, device)
        model.generation_config.compile_config = _compile_config()
        self._cache: Any = None
        self._cache_shape = (0, 0)
        self._num_compilations_before = _num_compilations()

    def generate(self, ids: Sequence[Sequence[int]], output_len: int, on_token: OnToken | None) -> list[list[int]]:
        """Greedy continuation, [batch][output_len].

        Raises OutOfMemory, or Unsupported where nothing was compiled or a compiler failed.
        """
        self._empty_cache(len(ids), len(ids[0]) + output_len)
        with memory_errors("generating"):
            new: list[list[int]]
            new, self._kv_cache_bytes = self._compiled(
                lambda: generate(self._model, ids, output_len, on_token, self._cache), output_len
            )
        return new

    def forced_logits(self, prompt_ids: Sequence[int], forced_ids: Sequence[int]) -> Any:
        """By the compiled `generate`, which is given each token. Raises OutOfMemory or Unsupported."""
        self._empty_cache(1, len(prompt_ids) + len(forced_ids))
        with memory_errors("reading a text token by token"):
            return self._compiled(
                lambda: forced_logits(self._model, prompt_ids, forced_ids, self._cache), len(forced_ids)
            )

    def _compiled(self, run: Callable[[], Any], output_len: int) -> Any:
        """What `run` returns. Raises Unsupported where nothing was compiled or a compiler failed."""
        import torch
        from torch._dynamo.exc import TorchDynamoException

        # no_grad, as transformers' own generate has it: inference tensors are a path few compile.
        with torch.no_grad():
            try:
                found = run()
            except TorchDynamoException as error:
                first = (str(error).strip().splitlines() or [""])[0]
                raise Unsupported(f"torch.compile failed: {type(error).__name__}: {first}") from error
        if output_len > 1 and self.num_compilations() == 0:
            raise Unsupported("transformers did not compile this model, so this would be the engine transformers")
        return found

    @contextmanager
    def annotated(self) -> Iterator[None]:
        """Hooks on the modules, and nothing compiled: a compiled model has no modules."""
        settings = self._model.generation_config
        settings.disable_compile = True
        try:
            with super().annotated():
                yield
        finally:
            settings.disable_compile = False

    def _empty_cache(self, batch_size: int, needed_len: int) -> None:
        """Empty the cache, or make a longer one, or one for another batch size."""
        from transformers.cache_utils import StaticCache

        batch_before, len_before = self._cache_shape
        if batch_before == batch_size and needed_len <= len_before:
            self._cache.reset()
            return
        rounded = -(-needed_len // CACHE_LEN_STEP) * CACHE_LEN_STEP
        self._cache_shape = (batch_size, max(rounded, len_before))
        self._cache = StaticCache(config=self._model.config, max_cache_len=self._cache_shape[1])

    def num_compilations(self) -> int:
        """How many graphs torch has compiled since the model was loaded: it stays as it is once warm-up is over."""
        return _num_compilations() - self._num_compilations_before


def _num_compilations() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _compile_config() -> Any:
    """transformers' default, in words; and each cache length for itself.

    Left to itself, torch would meet the second length with a graph for any length, which is slower.
    """
    from transformers import CompileConfig

    config = CompileConfig(mode="reduce-overhead", fullgraph=False, dynamic=False)
    # transformers compiles on accelerators by itself, on a CPU only where this says so.
    config._compile_all_devices = True
    return config


class CompiledEngine:
    """transformers with torch.compile."""

    name = "compiled"
    summary = (
        "transformers' generate with a static cache and torch.compile (reduce-overhead); "
        "transformers compiles few quantized methods"
    )
    needs = hf_loading.NEEDS
    itl_clock: Literal["host", "device"] = "host"

    def supports(self, choice: MethodChoice, device: str) -> Supported:
        """Packages, and the compiler that torch.compile calls. Whether the method compiles, the loaded model says."""
        answer = hf_loading.supports(self.needs, choice, device)
        return answer if not answer.ok else _has_compiler(device)

    def load(self, checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool) -> CompiledModel:
        """Load as transformers does. Raises LoadError or OutOfMemory, or Unsupported where it compiles nothing."""
        model, tokenizer = hf_loading.load(checkpoint, choice, device, trust_remote_code)
        quantizer = getattr(model, "hf_quantizer", None)
        if quantizer is not None and not quantizer.is_compileable:
            library = quantizer.quantization_config.quant_method
            raise Unsupported(
                f"transformers does not compile {getattr(library, 'value', library)} models: "
                f"{type(quantizer).__name__}.is_compileable is False"
            )
        return CompiledModel(model, tokenizer, device)


def _has_compiler(device: str) -> Supported:
    """torch.compile writes C++ for a CPU; for a GPU, Triton compiles launchers in C. Looked up where those two do."""
    if device == "cpu":
        tried, variable = [os.environ.get("CXX") or "g++"], "CXX"
    else:
        tried, variable = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"], "CC"
    if any(shutil.which(name) for name in tried):
        return Supported(True)
    return Supported(
        False, f"torch.compile needs a compiler, and {' or '.join(tried)} is not here: install one, or set {variable}"
    )


ENGINE = CompiledEngine
