"""Tiny models for the tests of checkpoints."""

import json
from dataclasses import replace
from pathlib import Path

from bitbench.facts.models import SHAPES, ModelShape
from bitbench.methods import safetensors_file, shapes


def tiny(name: str = "smollm2-135m", **changes) -> ModelShape:
    """A shape of the table with two layers and small matrices; ratios of heads, biases, norms and ties stay."""
    small = {"hidden_size": 128, "num_layers": 2, "intermediate_size": 256, "vocab_size": 512, "head_dim": 32}
    heads = {"num_heads": 4, "num_kv_heads": 2}
    return replace(SHAPES[name], **{**small, **heads, **changes})


def write_model(folder: Path, shape: ModelShape | None = None, shard_bytes: int = 10**9, **config) -> Path:
    """A 16-bit model folder without a tokenizer."""
    shape = shape or tiny()
    folder.mkdir(parents=True, exist_ok=True)
    specs, arrays = shapes.tensor_specs(shape), shapes.tensors(shape, ())
    safetensors_file.write(folder, specs, arrays, lambda name: None, shard_bytes)
    (folder / "config.json").write_text(json.dumps(shapes.config(shape) | config))
    return folder
