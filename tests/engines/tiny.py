"""A tiny Llama, or a relative of it, for tests of engines."""

from pathlib import Path
from typing import Any

import torch
import transformers

from bitbench.facts.messages import Checkpoint

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
