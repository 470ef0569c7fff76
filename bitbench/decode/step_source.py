"""The source of the step kernel as one text, and the sizes it is compiled for."""

import hashlib
import re
from pathlib import Path
from typing import Any

from bitbench.decode.config import DecoderConfig
from bitbench.decode.matrix import Dense, Int8Rows, Matrix
from bitbench.decode.weights import Weights

FOLDER = Path(__file__).parent / "kernels" / "step"
NUM_WARPS = 7
"""That multiply; the producer is one more. Eight in all leave a thread more registers than nine, and of the 28 units of
a row of 896 or 3,584 inputs each warp has as many as the others.
"""
_FIELD = re.compile(r"FIELD\([^,]+, (\w+)\)")
_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)


def source(folder: Path = FOLDER, device: Path | None = None) -> str:
    """step.cu with the files it includes in their places. `device` stands for another device.cuh than the GPU's."""

    def included(match: re.Match[str]) -> str:
        name = match[1]
        return _INCLUDE.sub(included, _text(device if device and name == "device.cuh" else folder / name))

    return _INCLUDE.sub(included, _text(folder / "step.cu"))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def fields(text: str) -> tuple[str, ...]:
    """The names of the kernel's arguments, in order."""
    return tuple(_FIELD.findall(text))


def source_hash() -> str:
    """Identifies the kernel's source in a record."""
    return hashlib.sha256(source().encode()).hexdigest()[:12]


def macros(config: DecoderConfig, weights: Weights) -> dict[str, str]:
    """What the kernel must know of the model when it is compiled."""
    import torch

    layer = weights.layers[0]
    values: dict[str, Any] = {
        "HIDDEN": config.hidden_size,
        "INTER": config.intermediate_size,
        "LAYERS": config.num_layers,
        "HEADS": config.num_heads,
        "KV_HEADS": config.num_kv_heads,
        "HEAD_DIM": config.head_dim,
        "VOCAB": config.vocab_size,
        "EPS": config.norm_eps,
        "QKV_BIAS": int(config.qkv_bias),
        "QK_NORM": int(config.qk_norm),
        "TIED": int(weights.embedding is weights.head),
        "BITS": _bits(layer.qkv),
        "HEAD_BITS": _bits(weights.head),
        "BF16": int(weights.final_norm.dtype == torch.bfloat16),
    }
    return {name: str(value) for name, value in values.items()}


def _bits(matrix: Matrix) -> int:
    return 16 if matrix.kind is Dense else 8 if matrix.kind is Int8Rows else 4
