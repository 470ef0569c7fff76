"""How far a quantized model's next-token distributions lie from the 16-bit model's, position by position.

Everything is computed in float64 from the logits as they are: in float32, log_softmax alone is off by some 1e-6 at
logits of 20, which is as much as near-lossless methods differ by. Shapes: N positions, V vocabulary, C positions of a
chunk.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

# Logits of one chunk, of each model: 34 MB in float64, of which some ten copies live at once.
CHUNK_ELEMENTS = 1 << 22
TOP = 5


@dataclass(slots=True)
class Divergence:
    """One entry a position. `kl_nats`: KL(P_16bit || P_quantized). `top1_agrees`: both have the same argmax.
    `top5_overlap`: how many of the five likeliest tokens they share. `nll_*_nats`: -log P of the text's next token.
    """

    kl_nats: list[float] = field(default_factory=list)
    top1_agrees: list[bool] = field(default_factory=list)
    top5_overlap: list[int] = field(default_factory=list)
    nll_reference_nats: list[float] = field(default_factory=list)
    nll_quantized_nats: list[float] = field(default_factory=list)

    def extend(self, other: "Divergence") -> None:
        """Append another text's positions."""
        self.kl_nats += other.kl_nats
        self.top1_agrees += other.top1_agrees
        self.top5_overlap += other.top5_overlap
        self.nll_reference_nats += other.nll_reference_nats
        self.nll_quantized_nats += other.nll_quantized_nats


def divergence(
    reference_NV: Any, quantized_NV: Any, next_ids: Sequence[int], context_free: "ContextFree | None" = None
) -> Divergence:
    """Compare the logits of two models; `next_ids` are the tokens that the text goes on with, one a position.

    KL is sum p (log p - log q), where p = 0 adds nothing and rounding below zero is cut off. NaN or infinite logits of
    the quantized model give NaN or infinite KL. `context_free` counts the reference's distributions in. Raises
    ValueError where the shapes differ.
    """
    if reference_NV.shape != quantized_NV.shape or len(next_ids) != reference_NV.shape[0]:
        raise ValueError(
            f"logits of {tuple(reference_NV.shape)} and {tuple(quantized_NV.shape)} for {len(next_ids)} next tokens"
        )
    import torch

    if not next_ids:
        return Divergence()
    next_N = torch.tensor(list(next_ids), device=reference_NV.device)
    chunks = []
    with torch.inference_mode():
        for rows in _chunks(*reference_NV.shape):
            quantized_CV = quantized_NV[rows].to(reference_NV.device)
            chunks.append(_chunk(reference_NV[rows], quantized_CV, next_N[rows], context_free))
        # A GPU is waited for only here.
        found = [torch.cat(parts).tolist() for parts in zip(*chunks, strict=True)]
    return Divergence(*found)


def _chunks(num_positions: int, vocab: int) -> Iterator[slice]:
    step = max(1, CHUNK_ELEMENTS // vocab)
    return (slice(first, first + step) for first in range(0, num_positions, step))


def _chunk(
    reference_CV: Any, quantized_CV: Any, next_C: Any, context_free: "ContextFree | None"
) -> tuple[Any, Any, Any, Any, Any]:
    """Tensors [C] in the order of Divergence's fields."""
    import torch

    # The likeliest are found among the logits as they are, which is cheaper than in float64 and gives the same.
    top = min(TOP, reference_CV.shape[1])
    tops_p_CT, tops_q_CT = reference_CV.topk(top).indices, quantized_CV.topk(top).indices
    agrees_C = reference_CV.argmax(-1) == quantized_CV.argmax(-1)
    log_p_CV, log_q_CV = _log_softmax(reference_CV), _log_softmax(quantized_CV)
    p_CV = log_p_CV.exp()
    if context_free is not None:
        context_free.add(p_CV)
    # Where p is 0 the difference may be inf - inf.
    terms_CV = torch.where(p_CV > 0, p_CV * (log_p_CV - log_q_CV), 0.0)
    return (
        terms_CV.sum(-1).clamp(min=0),
        agrees_C,
        (tops_p_CT[:, :, None] == tops_q_CT[:, None, :]).sum((1, 2)),
        -log_p_CV.gather(1, next_C[:, None])[:, 0],
        -log_q_CV.gather(1, next_C[:, None])[:, 0],
    )


def _log_softmax(logits_CV: Any) -> Any:
    """In float64. torch has one block of a GPU for a row, and a chunk has fewer rows than a GPU has room for blocks."""
    shifted_CV = logits_CV.double() - logits_CV.amax(-1, keepdim=True)
    return shifted_CV - shifted_CV.exp().sum(-1, keepdim=True).log()


class ContextFree:
    """What ignoring the context would cost: mean KL of the model's distributions to their own mean, in nats.

    That is H(mean P) - mean H(P), the generalised Jensen-Shannon divergence (Lin 1991, "Divergence measures based on
    the Shannon entropy", eq. 5.1): the best that any model can do that answers the same at every position.
    """

    def __init__(self) -> None:
        self._sum_V: Any = None
        self._entropy: Any = 0.0
        self._num = 0

    def add(self, p_NV: Any) -> None:
        """Count these distributions in, float64."""
        import torch

        self._entropy = self._entropy + torch.special.entr(p_NV).sum()
        self._num += p_NV.shape[0]
        total_V = p_NV.sum(0)
        self._sum_V = total_V if self._sum_V is None else self._sum_V + total_V

    def kl_nats(self) -> float:
        """Over all positions so far; 0 for none."""
        import torch

        if not self._num:
            return 0.0
        mean_V = self._sum_V / self._num
        found = float(torch.special.entr(mean_V).sum() - self._entropy / self._num)
        return found if math.isfinite(found) else 0.0
