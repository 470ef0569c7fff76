"""Outlier channels: activations above LLM.int8()'s threshold of 6.0 at the inputs of linear layers.

Real weights give many, random weights none, and LLM.int8() does more work where there are some. So they are planted,
and the function stays what it was: what makes a channel is multiplied by s, the column that reads it divided by s.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from bitbench.facts.models import ModelShape

THRESHOLD = 6.0  # transformers' default llm_int8_threshold
Reader = Literal["attention", "mlp", "down"]


@dataclass(frozen=True, slots=True)
class Band:
    """Layers `start` <= layer / num_layers < `end` where a share `token_rate` of tokens shall meet an outlier column.

    `columns` is how many channels take turns: a count, or below 1 a share of the channels there are.
    """

    reader: Reader
    start: float
    end: float
    token_rate: float
    columns: float


# What the demo does over the 20 prompts and 64 greedy tokens each (scripts/outlier_rates.py demo --by-layer), in bands:
# one column before attention from a third of the depth on, a few columns before down_proj early and hundreds late.
# o_proj, where under 1% of its tokens meet an outlier, is left out.
PROFILE = (
    Band("attention", 0.33, 0.40, 0.01, 1),
    Band("attention", 0.40, 0.77, 0.54, 1),
    Band("attention", 0.77, 1.0, 0.15, 1),
    Band("mlp", 0.93, 1.0, 0.42, 1),
    Band("down", 0.0, 0.63, 0.03, 10),
    Band("down", 0.63, 0.77, 0.25, 0.08),
    Band("down", 0.77, 1.0, 0.89, 0.39),
)
_MAKERS = {"attention": ("input_layernorm",), "mlp": ("post_attention_layernorm",), "down": ("up_proj",)}
_READERS = {"attention": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj"), "down": ("down_proj",)}


@dataclass(frozen=True, slots=True)
class Planted:
    """Channels of one layer whose activations are multiplied by `scale` before `reader`."""

    layer: int
    reader: Reader
    channels: tuple[int, ...]
    scale: float


@cache
def planted_channels(shape: ModelShape, weight_std: float, seed: int) -> tuple[Planted, ...]:
    """Where to plant in random normal weights of `weight_std`, and how strongly, to reach the rates of `PROFILE`."""
    out = []
    for band in PROFILE:
        width = shape.intermediate_size if band.reader == "down" else shape.hidden_size
        count = max(1, round(band.columns * width if band.columns < 1 else band.columns))
        for layer in range(shape.num_layers):
            if band.start <= layer / shape.num_layers < band.end:
                share = 1 - (1 - band.token_rate) ** (1 / count)
                if band.reader == "down":
                    usual = _gated_quantile(weight_std * math.sqrt(shape.hidden_size), share)
                else:  # a normalised activation is about standard normal
                    usual = NormalDist().inv_cdf(1 - share / 2)
                channels = _choose(width, count, f"{seed} {band.reader} {layer}")
                out.append(Planted(layer, band.reader, channels, THRESHOLD / usual))
    return tuple(out)


def _choose(width: int, count: int, seed: str) -> tuple[int, ...]:
    rng = random.Random(seed)
    keys = [rng.random() for _ in range(width)]  # of all its methods only random() is promised to stay the same
    return tuple(sorted(sorted(range(width), key=keys.__getitem__)[:count]))


@cache
def _gated_quantile(std: float, share: float) -> float:
    """The value that |silu(g) u| exceeds with probability `share`, for independent normal g and u of `std`."""
    normal = NormalDist()
    points = [(i - 400) / 80 for i in range(801)]
    gates = [abs(std * g / (1 + math.exp(-std * g))) + 1e-12 for g in points]
    weights = [normal.pdf(g) / 80 for g in points]
    low, high = 0.0, 100.0 * std * std + 10.0
    for _ in range(50):
        middle = (low + high) / 2
        above = sum(w * 2 * normal.cdf(-middle / (std * g)) for w, g in zip(weights, gates, strict=True))
        low, high = (middle, high) if above > share else (low, middle)
    return high


def plant(values: Any, name: str, planted: Sequence[Planted]) -> None:
    """Scale, in place, what the planted channels touch in the tensor `name`, [out, in] or [channels]."""
    parts = name.split(".")
    if len(parts) < 5 or parts[-1] != "weight":
        return
    layer, module = int(parts[2]), parts[-2]
    for p in planted:
        if p.layer == layer:
            channels = list(p.channels)
            if module in _MAKERS[p.reader]:
                values[channels] *= values.dtype.type(p.scale)
            if module in _READERS[p.reader]:
                values[:, channels] /= values.dtype.type(p.scale)


@dataclass(frozen=True, slots=True)
class OutlierRates:
    """What was met: of `num_layers` linear layers `num_with_any` had an outlier column, and a token met one in a share
    `token_rate` of its layer calls, then `columns` of them on average."""

    num_layers: int
    num_with_any: int
    token_rate: float
    columns: float
    by_layer: tuple[tuple[str, float, int], ...] = ()

    @property
    def line(self) -> str:
        """One line for notes."""
        return (
            f"{self.num_with_any} of {self.num_layers} linear layers have outlier columns, "
            f"a token meets one in {self.token_rate:.0%} of its layer calls"
        )


def measure(model: Any, sequences: Sequence[Sequence[int]]) -> OutlierRates:
    """Run a transformers model over token ids and count activations >= 6.0 at the inputs of its linear layers.

    lm_head is not counted: bitsandbytes leaves it alone.
    """
    import torch

    tallies: dict[str, list[Any]] = {}

    def watch(name: str) -> Any:
        tally = tallies.setdefault(name, [0, 0, 0, None])

        def hook(_: Any, inputs: tuple[Any, ...]) -> None:
            above = inputs[0].reshape(-1, inputs[0].shape[-1]).abs() >= THRESHOLD
            tally[0] += above.shape[0]
            tally[1] += int(above.any(1).sum())
            tally[2] += int(above.sum())
            columns = above.any(0)
            tally[3] = columns if tally[3] is None else tally[3] | columns

        return hook

    head = model.get_output_embeddings()
    handles = [
        module.register_forward_pre_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    try:
        with torch.inference_mode():
            for ids in sequences:
                model(torch.tensor([list(ids)], device=model.device), use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    calls, met, columns = (sum(t[i] for t in tallies.values()) for i in range(3))
    by_layer = tuple((name, t[1] / t[0], int(t[3].sum())) for name, t in tallies.items())
    return OutlierRates(
        len(tallies), sum(t[1] > 0 for t in tallies.values()), met / calls, columns / max(1, met), by_layer
    )


def measure_folder(folder: Path, sequences: Sequence[Sequence[int]]) -> OutlierRates:
    """`measure` on a 16-bit checkpoint, loaded on the CPU in bfloat16, which is the fast 16-bit type there."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    return measure(model, sequences)
