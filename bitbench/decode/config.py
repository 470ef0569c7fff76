"""What a decoder must know of a model, read from its `config.json`; and a clear no to what it cannot run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitbench.facts.errors import LoadError, Unsupported

# model_type -> (biases on q, k and v; norms on the heads of q and k)
ARCHITECTURES: dict[str, tuple[bool, bool]] = {
    "llama": (False, False),
    "qwen2": (True, False),
    "qwen3": (False, True),
}
ROPE_TYPES = ("default", "linear", "llama3")
ACTIVATIONS = ("silu", "swish")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary positions: base, and how positions or frequencies are scaled (transformers `modeling_rope_utils.py`)."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_len: int = 8192


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes of a Llama-family decoder. `group_size` is that of a stored AWQ quantization, else 0."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_len: int
    norm_eps: float
    rope: RopeConfig
    tied_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    eos_ids: tuple[int, ...] = ()
    group_size: int = 0

    @property
    def q_size(self) -> int:
        """Rows of the query projection."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Rows of the key projection, and of the value projection."""
        return self.num_kv_heads * self.head_dim


def read_config(folder: Path) -> DecoderConfig:
    """Raises LoadError where there is no readable `config.json`, Unsupported for a model this decoder cannot run."""
    path = folder / "config.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot read {path}: {error}") from error
    return parse_config(document)


def parse_config(document: Mapping[str, Any]) -> DecoderConfig:
    """From the fields of a `config.json`. Raises Unsupported, naming what is supported."""
    kind = document.get("model_type")
    _require("architecture", kind, tuple(ARCHITECTURES))
    _require("activation", document.get("hidden_act", "silu"), ACTIVATIONS)
    qkv_bias, qk_norm = ARCHITECTURES[str(kind)]
    heads, hidden = int(document["num_attention_heads"]), int(document["hidden_size"])
    head_dim = int(document.get("head_dim") or hidden // heads)
    _refuse_extras(document, qkv_bias)
    if head_dim % 2 or head_dim > 256:
        raise Unsupported(f"head size {head_dim} is not supported: even sizes up to 256 are")
    return DecoderConfig(
        model_type=str(kind),
        hidden_size=hidden,
        intermediate_size=int(document["intermediate_size"]),
        num_layers=int(document["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(document.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        vocab_size=int(document["vocab_size"]),
        context_len=int(document["max_position_embeddings"]),
        norm_eps=float(document.get("rms_norm_eps", 1e-6)),
        rope=_rope(document),
        tied_embeddings=bool(document.get("tie_word_embeddings", False)),
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        eos_ids=_ids(document.get("eos_token_id")),
        group_size=_group_size(document.get("quantization_config")),
    )


def _require(what: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise Unsupported(f"{what} '{value}' is not supported: {', '.join(choices)} are")


def _refuse_extras(document: Mapping[str, Any], qkv_bias: bool) -> None:
    """Settings of these architectures that would silently change the output."""
    # Qwen2 has its biases without saying so; elsewhere the same key asks for more than this decoder has.
    if document.get("attention_bias") and not qkv_bias:
        raise Unsupported("attention_bias is not supported outside qwen2")
    if document.get("mlp_bias"):
        raise Unsupported("mlp_bias is not supported: layers without biases are")
    layers = document.get("layer_types") or ()
    if document.get("use_sliding_window") or any(kind != "full_attention" for kind in layers):
        raise Unsupported("sliding-window attention is not supported: full attention is")


def _rope(document: Mapping[str, Any]) -> RopeConfig:
    """`rope_parameters` of newer configs, else `rope_theta` and `rope_scaling`."""
    newer = document.get("rope_parameters") or {}
    scaling = {**newer, **(document.get("rope_scaling") or {})}
    theta = float(newer.get("rope_theta") or document.get("rope_theta") or 10_000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    _require("rope scaling", kind, ROPE_TYPES)
    return RopeConfig(
        theta=theta,
        kind=str(kind),
        factor=float(scaling.get("factor", 1.0)),
        low_freq_factor=float(scaling.get("low_freq_factor", 1.0)),
        high_freq_factor=float(scaling.get("high_freq_factor", 4.0)),
        original_len=int(scaling.get("original_max_position_embeddings", 8192)),
    )


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, list) else (int(value),)


def _group_size(quantization: Mapping[str, Any] | None) -> int:
    """0 for a 16-bit checkpoint, the group size of an AWQ one in AutoAWQ's "gemm" layout."""
    if quantization is None:
        return 0
    method, version = quantization.get("quant_method"), str(quantization.get("version", "gemm")).lower()
    if method != "awq" or version != "gemm" or int(quantization.get("bits", 0)) != 4:
        found = f"{method} with {quantization.get('bits')} bits in layout '{version}'"
        raise Unsupported(f"stored quantization {found} is not supported: awq with 4 bits in layout 'gemm' is")
    return int(quantization["group_size"])
