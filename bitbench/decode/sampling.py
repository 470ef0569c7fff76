"""Choosing the next token from logits."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy. `top_k` 0 and `top_p` 1 keep every token. Raises ValueError for other nonsense."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("temperature and top_k must be at least 0, top_p above 0 and at most 1")


def choose(logits_BV: Any, sampling: Sampling, generator: Any = None) -> Any:
    """One token for each sequence, [B]. `generator` is torch's, on the logits' device."""
    import torch

    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    scaled_BV = logits_BV.float() / sampling.temperature
    if sampling.top_k:
        least_B1 = scaled_BV.topk(min(sampling.top_k, scaled_BV.shape[-1]), dim=-1).values[:, -1:]
        scaled_BV = scaled_BV.masked_fill(scaled_BV < least_B1, float("-inf"))
    if sampling.top_p < 1:
        scaled_BV = _nucleus(scaled_BV, sampling.top_p)
    return torch.multinomial(scaled_BV.softmax(dim=-1), 1, generator=generator)[:, 0]


def _nucleus(scaled_BV: Any, top_p: float) -> Any:
    """Keep the fewest most likely tokens whose probabilities reach `top_p` (arXiv 1904.09751)."""
    sorted_BV, order_BV = scaled_BV.sort(dim=-1, descending=True)
    probability_BV = sorted_BV.softmax(dim=-1)
    # What came before a token is already enough without it.
    unneeded_BV = probability_BV.cumsum(dim=-1) - probability_BV >= top_p
    return scaled_BV.masked_fill(unneeded_BV.scatter(1, order_BV, unneeded_BV), float("-inf"))
