"""Architectures of the built-in table with seeded random weights: their config and their tensors, one at a time.

Every value comes from the raw stream of a counter-based generator through a table of normal quantiles, so that a shape
is the same to the bit on every machine. Outlier channels are planted (see `outliers.py`); without them LLM.int8() would
meet none.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from statistics import NormalDist
from typing import Any

from bitbench.facts.models import ModelShape
from bitbench.methods.outliers import Planted, plant
from bitbench.methods.safetensors_file import TensorSpec

SEED = 20241123
# `initializer_range` of all models in the table (their config.json).
WEIGHT_STD = 0.02
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
_QUANTILES = 1 << 16
# Values made at once: numpy widens each 16-bit index to 8 bytes. A multiple of 4, the values in one raw number.
_CHUNK = 1 << 20


def config(shape: ModelShape) -> dict[str, Any]:
    """The content of config.json, in the names that the models' own makers publish (any transformers reads them)."""
    fields: dict[str, Any] = {
        "architectures": [ARCHITECTURES[shape.model_type]],
        "model_type": shape.model_type,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tied_embeddings,
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "hidden_act": "silu",
        "initializer_range": WEIGHT_STD,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float16",
    }
    if shape.rope_scaling:
        fields["rope_scaling"] = dict(shape.rope_scaling)
    if shape.model_type == "qwen2":
        fields["use_sliding_window"] = False
    else:
        fields["attention_bias"] = False
    return fields


def fingerprint(shape: ModelShape) -> str:
    """All that decides the tensors besides the code: sizes and seed."""
    sizes = {name: value for name, value in asdict(shape).items() if name not in ("title", "source")}
    return f"{sizes} seed {SEED} std {WEIGHT_STD}"


def tensor_specs(shape: ModelShape) -> tuple[TensorSpec, ...]:
    """Names and shapes [out_features, in_features] of all tensors, in the order `tensors` makes them; 16 bit."""
    names: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (shape.vocab_size, shape.hidden_size))]
    for layer in range(shape.num_layers):
        names += [(f"model.layers.{layer}.{name}", size) for name, size in _layer_tensors(shape)]
    names.append(("model.norm.weight", (shape.hidden_size,)))
    if not shape.tied_embeddings:
        names.append(("lm_head.weight", (shape.vocab_size, shape.hidden_size)))
    return tuple(TensorSpec(name, "F16", size) for name, size in names)


def _layer_tensors(shape: ModelShape) -> list[tuple[str, tuple[int, ...]]]:
    out: list[tuple[str, tuple[int, ...]]] = [
        ("input_layernorm.weight", (shape.hidden_size,)),
        ("post_attention_layernorm.weight", (shape.hidden_size,)),
    ]
    for name, in_features, out_features in shape.linear_shapes:
        block = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
        out.append((f"{block}.{name}.weight", (out_features, in_features)))
        if shape.qkv_bias and name in ("q_proj", "k_proj", "v_proj"):
            out.append((f"{block}.{name}.bias", (out_features,)))
    if shape.qk_norm:
        out += [(f"self_attn.{name}.weight", (shape.head_dim,)) for name in ("q_norm", "k_norm")]
    return out


def tensors(shape: ModelShape, planted: tuple[Planted, ...]) -> Iterator[Any]:
    """The float16 numpy arrays of `tensor_specs(shape)`, with the outlier channels planted."""
    for spec in tensor_specs(shape):
        values = _fill(spec)
        plant(values, spec.name, planted)
        yield values


def _fill(spec: TensorSpec) -> Any:
    """Ones for norms, else normal values of WEIGHT_STD."""
    import numpy as np

    if "norm" in spec.name:
        return np.ones(spec.shape, dtype=np.float16)
    count = spec.num_bytes // 2
    seed = int.from_bytes(hashlib.sha256(f"{SEED} {spec.name}".encode()).digest()[:16], "little")
    # Raw output of a bit generator is promised to stay the same (NEP 19); what Generator makes of it is not.
    source, table = np.random.SFC64(seed), _normal_table()
    values = np.empty(count, dtype=np.float16)
    for start in range(0, count, _CHUNK):
        part = values[start : start + _CHUNK]
        part[:] = table.take(source.random_raw(-(-part.size // 4)).view(np.uint16)[: part.size])
    return values.reshape(spec.shape)


@cache
def _normal_table() -> Any:
    """WEIGHT_STD times the normal quantile of each 16-bit number, float16."""
    import numpy as np

    normal = NormalDist(0, WEIGHT_STD)
    return np.array([normal.inv_cdf((i + 0.5) / _QUANTILES) for i in range(_QUANTILES)], dtype=np.float16)
