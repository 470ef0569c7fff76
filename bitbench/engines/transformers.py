"""transformers as people call it today: eager `generate`, dynamic cache, greedy."""

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from bitbench.engines.base import OnToken, Supported
from bitbench.engines.memory_errors import memory_errors
from bitbench.engines.packages import missing_packages
from bitbench.engines.weights import unread_embedding_bytes, weights_bytes
from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Checkpoint
from bitbench.facts.samples import KernelReport
from bitbench.methods.registry import MethodChoice

# bitsandbytes' default for LLM.int8(): activations above it go through 16 bit (transformers BitsAndBytesConfig).
OUTLIER_THRESHOLDS = {"bnb-int8": 6.0, "bnb-int8-t0": 0.0}
# Compiled torch operator libraries to load first, for machines where gptqmodel can't compile its kernels itself.
OPS_LIBRARIES_VARIABLE = "BITBENCH_OPS_LIBRARIES"
# Marlin's AWQ class in gptqmodel needs sm_80; AutoAWQ's gemm kernel runs from sm_75.
_MARLIN_MIN_CAPABILITY = (8, 0)
_KERNEL_NAMES = {
    "Linear8bitLt": "bitsandbytes int8",
    "Linear4bit": "bitsandbytes 4-bit",
    "AwqMarlinLinear": "marlin",
    "AwqGEMMLinear": "AutoAWQ gemm",
    "TorchAtenAwqLinear": "ATen int4",
}


class _TokenTicks:
    """A streamer that only tells that a token is there; transformers hands it the prompt first."""

    def __init__(self, on_token: OnToken) -> None:
        self._on_token = on_token
        self._prompt_seen = False

    def put(self, _: Any) -> None:
        if self._prompt_seen:
            self._on_token()
        self._prompt_seen = True

    def end(self) -> None:
        pass


class TransformersModel:
    """A loaded Hugging Face causal language model."""

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._kv_cache_bytes = 0

    def encode(self, text: str) -> list[int] | None:
        """Token ids under the chat template; None without a tokenizer."""
        if self._tokenizer is None:
            return None
        if self._tokenizer.chat_template is None:
            return list(self._tokenizer(text)["input_ids"])
        messages = [{"role": "user", "content": text}]
        return list(
            self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        )

    def generate(self, ids: Sequence[Sequence[int]], output_len: int, on_token: OnToken | None) -> list[list[int]]:
        """Greedy continuation, [batch][output_len]; EOS is not configured, so nothing ends early."""
        import torch

        with torch.inference_mode(), memory_errors("generating"):
            input_ids = torch.tensor([list(row) for row in ids], device=self._device)
            output = self._model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=output_len,
                streamer=_TokenTicks(on_token) if on_token else None,
            )
            cache = output.past_key_values
            self._kv_cache_bytes = sum(
                layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.keys is not None
            )
            new: list[list[int]] = output.sequences[:, input_ids.shape[1] :].tolist()
        return new

    def top_gaps(self, ids: Sequence[int], num_last: int) -> list[float]:
        """Gap below the top logit at each of the last ids, in standard deviations of that position's logits."""
        import torch

        with torch.inference_mode(), memory_errors("checking tokens"):
            tokens = torch.tensor([list(ids)], device=self._device)
            logits = self._model(tokens, logits_to_keep=num_last + 1, use_cache=False).logits[0, :-1].float()
            chosen = logits.gather(1, tokens[0, -num_last:, None])[:, 0]
            gaps: list[float] = ((logits.max(dim=1).values - chosen) / logits.std(dim=1)).tolist()
        return gaps

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

    def kernels(self) -> KernelReport:
        """Classes of the modules in the decoder's layers that hold a matrix."""
        head = self._model.get_output_embeddings()
        counts = Counter(
            type(module).__name__
            for module in self._model.modules()
            if module is not head and hasattr(module, "in_features")
        )
        first = counts.most_common(1)[0][0] if counts else "none"
        return KernelReport(name=_kernel_name(first, self._device), module_classes=dict(counts))

    def device_kernel_names(self, ids: Sequence[Sequence[int]]) -> tuple[str, ...]:
        """Kernels of a prefill and three decode steps by torch's profiler, costliest first."""
        if self._device == "cpu":
            return ()
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            self.generate(ids, 4, None)
            self.synchronize()
        rows = sorted(profiler.key_averages(), key=lambda row: -row.self_device_time_total)
        return tuple(row.key for row in rows if row.self_device_time_total > 0)

    def dtype(self) -> str:
        """float16 or bfloat16."""
        return str(self._model.dtype).removeprefix("torch.")


def _kernel_name(module_class: str, device: str) -> str:
    if module_class == "Linear":
        return "cuBLAS" if device != "cpu" else "ATen"
    return _KERNEL_NAMES.get(module_class, module_class)


class TransformersEngine:
    """Eager transformers."""

    name = "transformers"
    summary = "transformers' eager generate with a dynamic cache: what people run today"
    needs = ("torch", "transformers", "accelerate")
    itl_clock: Literal["host", "device"] = "host"

    def supports(self, choice: MethodChoice, device: str) -> Supported:
        """Packages, and kernels that need a GPU."""
        if choice.kernel and device == "cpu":
            return Supported(False, f"the kernel {choice.kernel} needs a CUDA device: ask for {choice.method.name}")
        return missing_packages((*self.needs, *(n for n in choice.method.needs if n not in self.needs)))

    def load(
        self, checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool
    ) -> TransformersModel:
        """Load with `from_pretrained` straight to the device."""
        from safetensors import SafetensorError

        _prepare_libraries(choice)
        with memory_errors("loading"):
            try:
                model = _from_pretrained(checkpoint, choice, device, trust_remote_code)
                tokenizer = _tokenizer(checkpoint, trust_remote_code)
            except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
                raise LoadError(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
        _make_greedy(model)
        return TransformersModel(model, tokenizer, device)


def _prepare_libraries(choice: MethodChoice) -> None:
    if choice.method.family == "awq":
        # gptqmodel starts a worker pool at import and fails on machines with fewer cores than it expects.
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, min(4, os.cpu_count() or 2))))
        libraries = os.environ.get(OPS_LIBRARIES_VARIABLE, "")
        if libraries:
            import torch

            for path in libraries.split(os.pathsep):
                torch.ops.load_library(path)


def _dtype(choice: MethodChoice, device: str) -> Any:
    """float16, except where bf16 was asked for or the CPU would emulate float16 slowly for a quantized method."""
    import torch

    if choice.method.name == "fp16":
        return torch.float16
    if choice.method.name == "bf16" or device == "cpu":
        return torch.bfloat16
    return torch.float16


def _from_pretrained(checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        checkpoint.path, local_files_only=True, trust_remote_code=trust_remote_code
    )
    if choice.method.family == "awq" and device != "cpu":
        config.quantization_config["backend"] = choice.kernel or _default_awq_kernel(device)
    dtype = _dtype(choice, device)
    return transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.path,
        config=config,
        dtype=dtype,
        quantization_config=_bitsandbytes_config(choice, dtype),
        device_map={"": device},
        local_files_only=True,
        trust_remote_code=trust_remote_code,
    ).eval()


def _default_awq_kernel(device: str) -> str:
    """Marlin where it runs, else AutoAWQ's gemm. gptqmodel's own choice would first try to build Machete."""
    import torch

    return "marlin" if torch.cuda.get_device_capability(device) >= _MARLIN_MIN_CAPABILITY else "gemm"


def _bitsandbytes_config(choice: MethodChoice, dtype: Any) -> Any:
    if choice.method.family != "bitsandbytes":
        return None
    from transformers import BitsAndBytesConfig

    if choice.method.name in OUTLIER_THRESHOLDS:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=OUTLIER_THRESHOLDS[choice.method.name])
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _tokenizer(checkpoint: Checkpoint, trust_remote_code: bool) -> Any:
    if not checkpoint.has_tokenizer:
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=trust_remote_code)


def _make_greedy(model: Any) -> None:
    """Replace the checkpoint's generation settings: plain argmax, no repetition penalty, no EOS.

    Leaving EOS out ends nothing early without adding a logits processor, which `min_new_tokens` would.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        do_sample=False, use_cache=True, return_dict_in_generate=True, pad_token_id=0
    )


ENGINE = TransformersEngine
