"""Loading a checkpoint with transformers: the method's own library and kernel, and plain greedy settings.

Shared by the engines that run transformers' modules.
"""

import os
from collections.abc import Sequence
from typing import Any

from bitbench.engines.base import Supported
from bitbench.engines.memory_errors import memory_errors
from bitbench.engines.packages import missing_packages
from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Checkpoint
from bitbench.methods.registry import MethodChoice

NEEDS = ("torch", "transformers", "accelerate")
# bitsandbytes' default for LLM.int8(): activations above it go through 16 bit (transformers BitsAndBytesConfig).
OUTLIER_THRESHOLDS = {"bnb-int8": 6.0, "bnb-int8-t0": 0.0}
# Compiled torch operator libraries to load first, for machines where gptqmodel can't compile its kernels itself.
OPS_LIBRARIES_VARIABLE = "BITBENCH_OPS_LIBRARIES"
# Marlin's AWQ class in gptqmodel needs sm_80; AutoAWQ's gemm kernel runs from sm_75.
_MARLIN_MIN_CAPABILITY = (8, 0)


def supports(needs: Sequence[str], choice: MethodChoice, device: str) -> Supported:
    """Whether transformers can load the method here: packages, and kernels that need a GPU."""
    if choice.kernel and device == "cpu":
        return Supported(False, f"the kernel {choice.kernel} needs a CUDA device: ask for {choice.method.name}")
    if choice.method.family == "fp8-rows":
        return Supported(False, f"transformers has no kernel for {choice.method.name}: use the engine fused")
    return missing_packages((*needs, *(n for n in choice.method.needs if n not in needs)))


def load(checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """The model and its tokenizer (None without one), straight to the device. Raises LoadError or OutOfMemory."""
    from safetensors import SafetensorError

    _prepare_libraries(choice)
    with memory_errors("loading"):
        try:
            model = _from_pretrained(checkpoint, choice, device, trust_remote_code)
            tokenizer = tokenizer_of(checkpoint, trust_remote_code)
        except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
            raise LoadError(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
    _make_greedy(model)
    return model, tokenizer


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

    if choice.method.name in ("fp16", "fp32"):
        return torch.float16 if choice.method.name == "fp16" else torch.float32
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
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.path,
        config=config,
        dtype=dtype,
        quantization_config=_bitsandbytes_config(choice, dtype),
        device_map={"": device},
        local_files_only=True,
        trust_remote_code=trust_remote_code,
    ).eval()
    if choice.method.scheme.lm_head_bits == 8:
        from bitbench.engines.int8_rows import store_in_rows

        store_in_rows(model, layers=choice.method.family == "int8-rows")
    return model


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


def tokenizer_of(checkpoint: Checkpoint, trust_remote_code: bool) -> Any:
    """The checkpoint's own; None where it has none."""
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
