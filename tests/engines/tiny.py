"""A tiny Llama, or a relative of it, for tests of engines."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from bitbench.facts.messages import Checkpoint
from bitbench.methods import awq_layout

VOCAB = 512


def write_tiny(folder: Path, kind: str = "Llama", **config: Any) -> Path:
    """A checkpoint whose own generation settings would change a greedy run: they must not."""
    torch.manual_seed(0)
    given = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    settings = getattr(transformers, f"{kind}Config")(**given | config)
    model = getattr(transformers, f"{kind}ForCausalLM")(settings).to(torch.float32)
    with torch.no_grad():  # fresh ones are 0 and 1, and nobody would miss them
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn_like(parameter) / 2)
            elif parameter.dim() == 1:
                parameter.copy_(1 + torch.randn_like(parameter) / 4)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=0.7, repetition_penalty=1.5, eos_token_id=list(range(VOCAB // 2)), pad_token_id=0
    )
    model.save_pretrained(folder)
    return folder


def checkpoint(folder: Path) -> Checkpoint:
    """As the cache would describe it."""
    return Checkpoint(path=str(folder), content_hash="x", origin="test")


def prompt_ids(prompt_len: int, batch_size: int = 1, seed: int = 1) -> list[list[int]]:
    """Random ids, [batch][prompt_len]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (batch_size, prompt_len), generator=generator).tolist()


def write_tiny_awq(source: Path, folder: Path, group_size: int = 32) -> Path:
    """The projections of a tiny checkpoint rounded to nearest into AWQ's storage."""
    folder.mkdir()
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            parts = awq_layout.round_to_nearest(tensor, group_size)
            stem = name.removesuffix("weight")
            tensors |= {f"{stem}{p}": t for p, t in zip(("qweight", "qzeros", "scales"), parts, strict=True)}
        else:
            tensors[name] = tensor.half()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, "version": "gemm",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def in_float32(folder: Path) -> Any:
    """The model itself, greedy: without rounding, logits of different paths are equal or something is wrong."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, use_cache=True, return_dict_in_generate=True, pad_token_id=0
    )
    return model


def make_certain(model: Any, factor: float = 40.0) -> Any:
    """Random logits are nearly equal; larger ones make a model that is sure of its next token, as trained ones are."""
    with torch.no_grad():
        model.lm_head.weight *= factor
    return model
