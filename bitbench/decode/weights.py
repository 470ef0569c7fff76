"""All numbers of a model, read from the safetensors that users have, and stored as the decoder reads them.

Projections that read the same vector are stacked: query, key and value; gate and up.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from bitbench.decode.config import DecoderConfig
from bitbench.decode.matrix import Dense, Int4Groups, Matrix, fp8_rows, int4_groups, int8_rows, stacked
from bitbench.facts.errors import LoadError, Unsupported
from bitbench.methods.awq_layout import unpack
from bitbench.methods.safetensors_file import INDEX, WEIGHTS

Storage = Literal["16bit", "int8", "fp8"]
_STORE: dict[Storage, Callable[[Any], Matrix]] = {"16bit": Dense, "int8": int8_rows, "fp8": fp8_rows}


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Norms are vectors; `qkv_bias`, `q_norm` and `k_norm` are None where the architecture has none."""

    input_norm: Any
    qkv: Matrix
    qkv_bias: Any | None
    q_norm: Any | None
    k_norm: Any | None
    o: Matrix
    post_norm: Any
    gate_up: Matrix
    down: Matrix

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """In the order in which a step multiplies them."""
        return self.qkv, self.o, self.gate_up, self.down

    def with_vectors(self, dtype: Any) -> "LayerWeights":
        """Norms and biases in another type, the matrices as they are stored."""
        names = ("input_norm", "qkv_bias", "q_norm", "k_norm", "post_norm")
        return replace(self, **{name: v.to(dtype) for name in names if (v := getattr(self, name)) is not None})


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole model. Where the embedding is tied, `embedding` is the very matrix `head`."""

    embedding: Matrix
    layers: tuple[LayerWeights, ...]
    final_norm: Any
    head: Matrix

    @property
    def num_bytes(self) -> int:
        """As stored, each matrix once."""
        layers = sum(m.num_bytes for layer in self.layers for m in layer.matrices)
        vectors = sum(
            v.nbytes
            for layer in self.layers
            for v in (layer.input_norm, layer.post_norm, layer.qkv_bias, layer.q_norm, layer.k_norm)
            if v is not None
        )
        tables = self.head.num_bytes + (0 if self.embedding is self.head else self.embedding.num_bytes)
        return layers + int(vectors + self.final_norm.nbytes) + tables

    def with_vectors(self, dtype: Any) -> "Weights":
        """Norms and biases in another type, which is that of the activations; the matrices as they are stored."""
        layers = tuple(layer.with_vectors(dtype) for layer in self.layers)
        return replace(self, layers=layers, final_norm=self.final_norm.to(dtype))


class _Tensors:
    """The tensors of a checkpoint's files by name, on one device. Raises LoadError for one that is missing."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder, self._device = folder, device
        self._files: dict[str, Any] = {}
        self._where = _index(folder)

    def __enter__(self) -> "_Tensors":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.__exit__(None, None, None)

    def get(self, name: str) -> Any:
        from safetensors import SafetensorError, safe_open

        file_name = self._where.get(name, WEIGHTS) if self._where else WEIGHTS
        try:
            if file_name not in self._files:
                opened: Any = safe_open(self._folder / file_name, framework="pt", device=self._device)
                self._files[file_name] = opened.__enter__()
            return self._files[file_name].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise LoadError(f"cannot read {name} from {self._folder / file_name}: {error}") from error


def _index(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError) as error:
        raise LoadError(f"cannot read {path}: {error}") from error


def load_weights(
    folder: Path,
    config: DecoderConfig,
    *,
    dtype: Any,
    device: str,
    layers: Storage = "16bit",
    head: Storage = "16bit",
    done: Callable[[int], None] = lambda _: None,
) -> Weights:
    """Read a checkpoint. `layers` and `head` say how 16-bit matrices are stored; an AWQ checkpoint's stay 4 bit.

    A tied embedding looks its rows up in whatever the head is stored in. `done(number)` is called after each layer.
    Raises LoadError, Unsupported.
    """
    if config.group_size and layers != "16bit":
        raise Unsupported("this checkpoint's layers are stored in 4 bits already: choose the method awq-int4")
    with _Tensors(folder, device) as tensors:

        def matrix(name: str, storage: Storage) -> Matrix:
            weight_OI = tensors.get(f"{name}.weight").to(dtype)
            return _STORE[storage](weight_OI)

        def projection(name: str) -> Matrix:
            return _awq(tensors, name) if config.group_size else matrix(name, layers)

        embedding_name = "model.embed_tokens"
        table = matrix("lm_head" if not config.tied_embeddings else embedding_name, head)
        read = []
        for number in range(config.num_layers):
            read.append(_layer(tensors, f"model.layers.{number}", config, projection, dtype))
            done(number)
        return Weights(
            embedding=table if config.tied_embeddings else matrix(embedding_name, "16bit"),
            layers=tuple(read),
            final_norm=tensors.get("model.norm.weight").to(dtype),
            head=table,
        )


def _layer(
    tensors: _Tensors, at: str, config: DecoderConfig, projection: Callable[[str], Matrix], dtype: Any
) -> LayerWeights:
    import torch

    def vector(name: str) -> Any:
        return tensors.get(f"{at}.{name}").to(dtype)

    def stack(names: Sequence[str]) -> Matrix:
        return stacked([projection(f"{at}.{name}") for name in names])

    parts = [f"self_attn.{letter}_proj" for letter in "qkv"]
    return LayerWeights(
        input_norm=vector("input_layernorm.weight"),
        qkv=stack(parts),
        qkv_bias=torch.cat([vector(f"{name}.bias") for name in parts]) if config.qkv_bias else None,
        q_norm=vector("self_attn.q_norm.weight") if config.qk_norm else None,
        k_norm=vector("self_attn.k_norm.weight") if config.qk_norm else None,
        o=stack(["self_attn.o_proj"]),
        post_norm=vector("post_attention_layernorm.weight"),
        gate_up=stack(["mlp.gate_proj", "mlp.up_proj"]),
        down=stack(["mlp.down_proj"]),
    )


def _awq(tensors: _Tensors, name: str) -> Int4Groups:
    """From AutoAWQ's "gemm" layout, whose rows are inputs (methods/awq_layout.py)."""
    qweight_IP, qzeros_GP = tensors.get(f"{name}.qweight"), tensors.get(f"{name}.qzeros")
    scales_GO = tensors.get(f"{name}.scales")
    return int4_groups(unpack(qweight_IP).T, scales_GO.T, unpack(qzeros_GP).T)
