"""What a model folder holds, checked before anything is loaded. Never imports torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitbench.facts.errors import LoadError
from bitbench.facts.models import ModelShape
from bitbench.methods.safetensors_file import INDEX, read_header

_PICKLES = ("*.bin", "*.pt", "*.pth")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
# Model types whose sizes a ModelShape describes exactly, and whether q, k and v have a bias unless the config says.
_SHAPED = {"llama": False, "mistral": False, "qwen2": True, "qwen3": False}


@dataclass(frozen=True, slots=True)
class Quantization:
    """A quantization that is stored in a checkpoint already. `group_size` 0: not known or none."""

    method: str
    bits: int | None = None
    group_size: int = 0


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder that passed the checks. `weights` are its weight files, `num_bytes` their size."""

    path: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]
    num_bytes: int
    quantization: Quantization | None
    has_tokenizer: bool

    @property
    def hashed_files(self) -> tuple[Path, ...]:
        """What identifies the numbers."""
        return (self.path / "config.json", *self.weights)


def inspect(path: Path, allow_pickle: bool = False, trust_remote_code: bool = False) -> ModelFolder:
    """Check a model folder. Raises LoadError naming the file that is missing, damaged or not allowed."""
    config = read_config(path)
    if config.get("auto_map") and not trust_remote_code:
        raise LoadError(f"{path} needs its own Python code to load: allow it with --trust-remote-code if you trust it")
    weights = _weight_files(path, allow_pickle)
    return ModelFolder(
        path=path,
        config=config,
        weights=weights,
        num_bytes=sum(f.stat().st_size for f in weights),
        quantization=quantization(config),
        has_tokenizer=any((path / name).is_file() for name in _TOKENIZERS),
    )


def read_config(path: Path) -> dict[str, Any]:
    """config.json. Raises LoadError where it is missing or not a JSON object."""
    file = path / "config.json"
    if not file.is_file():
        raise LoadError(f"no config.json in {path}: it is not a model folder in the Hugging Face layout")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{file} is not a JSON object")
    return config


def _weight_files(path: Path, allow_pickle: bool) -> tuple[Path, ...]:
    files = _indexed(path) or tuple(sorted(path.glob("*.safetensors")))
    for file in files:
        if not file.is_file():
            raise LoadError(f"{file} is missing: the index {INDEX} lists it")
        read_header(file)
    if files:
        return files
    pickles = tuple(sorted(file for pattern in _PICKLES for file in path.glob(pattern)))
    if not pickles:
        raise LoadError(f"no weights in {path}: no *.safetensors file")
    if not allow_pickle:
        raise LoadError(
            f"{path} has only pickles, which can run code ({pickles[0].name}): "
            "only safetensors are loaded unless --allow-pickle"
        )
    return pickles


def _indexed(path: Path) -> tuple[Path, ...]:
    file = path / INDEX
    if not file.is_file():
        return ()
    try:
        names = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise LoadError(f"{file} cannot be read: {error}") from error
    return tuple(path / name for name in names)


def quantization(config: dict[str, Any]) -> Quantization | None:
    """What config.json says of a stored quantization, None for a 16-bit checkpoint."""
    given = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(given, dict):
        return None
    method = given.get("quant_method") or (
        "bitsandbytes" if given.get("load_in_4bit") or given.get("load_in_8bit") else ""
    )
    group_size = given.get("group_size") or given.get("q_group_size") or 0
    bits = given.get("bits") or given.get("w_bit")
    return Quantization(str(method or "an unnamed method").lower(), bits, max(0, int(group_size)))


def shape_of(config: dict[str, Any], title: str) -> ModelShape | None:
    """Sizes from a config.json; None where the architecture is not one that a ModelShape describes."""
    kind = config.get("model_type")
    if kind not in _SHAPED:
        return None
    try:
        heads = int(config["num_attention_heads"])
        return ModelShape(
            title=title,
            source=title,
            model_type=kind,
            hidden_size=int(config["hidden_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            intermediate_size=int(config["intermediate_size"]),
            vocab_size=int(config["vocab_size"]),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bool(config.get("attention_bias", _SHAPED[kind])),
            qk_norm=kind == "qwen3",
            max_positions=int(config.get("max_position_embeddings", 2048)),
        )
    except (KeyError, TypeError, ValueError):
        return None
