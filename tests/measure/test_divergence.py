"""KL, agreement and likelihoods against an independent computation in numpy, float64."""

import math

import numpy as np
import pytest
import torch

from bitbench.measure import divergence as module
from bitbench.measure.divergence import ContextFree, divergence

VOCAB = 307


def logits(num: int, seed: int, scale: float = 5.0) -> torch.Tensor:
    return torch.randn(num, VOCAB, generator=torch.Generator().manual_seed(seed)) * scale


def by_numpy(p_logits: np.ndarray, q_logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P, log P and KL, the plain way: exp over its sum."""
    p, q = np.exp(p_logits - p_logits.max(1, keepdims=True)), np.exp(q_logits - q_logits.max(1, keepdims=True))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return p, q, (p * np.log(p / q)).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("noise", [1e-3, 0.1, 3.0])
def test_agrees_with_numpy_to_1e_6(monkeypatch, dtype, noise):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 7 * VOCAB)  # 40 positions: six chunks, the last one short
    reference = (logits(40, 1) + 20).to(dtype)
    quantized = (reference.float() + logits(40, 2, noise)).to(dtype)
    next_ids = torch.randint(0, VOCAB, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    found = divergence(reference, quantized, next_ids)
    p, q, kl = by_numpy(reference.double().numpy(), quantized.double().numpy())
    assert found.kl_nats == pytest.approx(kl, abs=1e-6, rel=1e-9)
    assert found.nll_reference_nats == pytest.approx(-np.log(p[range(40), next_ids]), abs=1e-6)
    assert found.nll_quantized_nats == pytest.approx(-np.log(q[range(40), next_ids]), abs=1e-6)
    assert min(found.kl_nats) >= 0
    if dtype == torch.float32:  # bfloat16 has ties, and which of two equals is first is nobody's business
        assert found.top1_agrees == (p.argmax(1) == q.argmax(1)).tolist()
        tops = zip(np.argsort(-p, 1)[:, :5].tolist(), np.argsort(-q, 1)[:, :5].tolist(), strict=True)
        assert found.top5_overlap == [len(set(a) & set(b)) for a, b in tops]


def test_identical_logits_diverge_by_nothing():
    same = logits(9, 1)
    found = divergence(same, same.clone(), [0] * 9)
    assert found.kl_nats == [0.0] * 9
    assert all(found.top1_agrees) and found.top5_overlap == [5] * 9
    assert found.nll_reference_nats == found.nll_quantized_nats


def test_a_token_that_neither_allows_adds_nothing_and_one_that_only_the_reference_allows_is_infinite():
    reference, quantized = logits(2, 1), logits(2, 2)
    reference[0, 3] = quantized[0, 3] = -math.inf
    quantized[1, 3] = -math.inf
    found = divergence(reference, quantized, [0, 0]).kl_nats
    assert math.isfinite(found[0]) and found[1] == math.inf


def test_nan_is_not_hidden():
    broken = torch.full((2, VOCAB), math.nan)
    assert all(math.isnan(x) for x in divergence(logits(2, 1), broken, [0, 0]).kl_nats)


@pytest.mark.parametrize(("rows", "ids"), [(3, 2), (2, 3)])
def test_unlike_shapes_are_an_error(rows, ids):
    with pytest.raises(ValueError, match="logits of"):
        divergence(logits(rows, 1), logits(2, 2), [0] * ids)


def test_context_free_is_the_kl_to_the_mean_distribution(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 7 * VOCAB)
    reference = logits(40, 1)
    found = ContextFree()
    for rows in (reference[:25], reference[25:]):
        divergence(rows, rows, [0] * len(rows), found)
    p, _, _ = by_numpy(reference.double().numpy(), reference.double().numpy())
    assert found.kl_nats() == pytest.approx((p * np.log(p / p.mean(0))).sum(1).mean(), abs=1e-9)
    assert ContextFree().kl_nats() == 0.0
