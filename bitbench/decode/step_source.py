"""Which step kernel: its source's name in a record, and the sizes it is compiled for."""

import hashlib
from typing import Any

from bitbench.decode.config import DecoderConfig
from bitbench.decode.cuda_source import source
from bitbench.decode.tiles import BITS
from bitbench.decode.weights import Weights

FILE = "step.cu"
NUM_WARPS = 7
"""That multiply; the producer is one more. Eight in all leave a thread more registers than nine, and of the 28 units of
a row of 896 or 3,584 inputs each warp has as many as the others.
"""


def source_hash(capability: tuple[int, int]) -> str:
    """Identifies the kernel's source in a record: what GPUs of this compute capability are given."""
    return hashlib.sha256(source(FILE, capability).encode()).hexdigest()[:12]


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
        "BITS": BITS[layer.qkv.kind],
        "HEAD_BITS": BITS[weights.head.kind],
        "BF16": int(weights.final_norm.dtype == torch.bfloat16),
    }
    return {name: str(value) for name, value in values.items()}
