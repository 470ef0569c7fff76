"""Figures of quality on read, with intervals by block bootstrap over documents. KL in nats, shares 0-1.

Neighbouring positions of a text depend on each other, documents hardly do: so documents are what is drawn again.
"""

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from bitbench.facts.quality import GreedyContinuation, QualityPass

T = TypeVar("T")
Verdict = Literal["better", "worse", "cannot be told apart"]

RESAMPLES = 1000
# Fewer documents than this say nothing about how documents differ: no interval is given.
MIN_DOCUMENTS = 5
SEED = 1
_LEVEL = 0.95
NEAR_LOSSLESS_NATS = 0.01
"""Methods below this mean KL are not ranked by it. Mean KL is the logarithm of the perplexity ratio on text that the
reference itself would write, so this is 1% of perplexity, MLPerf's 99% of the reference; and to rank by less than the
difference between two 16-bit types (bfloat16 costs 0.001 to 0.002) would rank noise (arXiv 2606.19558).
"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval over documents; the ends are None for fewer than five documents."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class KlSummary:
    """Over positions, nats. `p99`: the smallest value that 99% of positions do not exceed."""

    mean: float
    median: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two methods' mean KL on the same positions: the first's `verdict`, and first minus second in nats."""

    verdict: Verdict
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Identical:
    """`share` of greedy answers that are the reference's to the end; `median_first_parting`: the number of identical
    tokens before the others part, None where none does.
    """

    share: float
    median_first_parting: float | None


def kl(of: QualityPass) -> KlSummary:
    """Mean, median, 99th percentile and maximum over positions."""
    ordered = sorted(of.kl_nats)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return KlSummary(statistics.fmean(ordered), statistics.median(ordered), p99, ordered[-1])


def mean_kl(of: QualityPass) -> Estimate:
    """Mean KL with its interval."""
    return _mean(of, of.kl_nats)


def top1_agreement(of: QualityPass) -> Estimate:
    """Share of positions with the same argmax: 1 minus "flips" (arXiv 2407.09141)."""
    return _mean(of, [float(c) for c in of.top1_agrees])


def top5_overlap(of: QualityPass) -> Estimate:
    """Mean share of the five likeliest tokens that both have."""
    return _mean(of, [int(c) / 5 for c in of.top5_overlap])


def perplexities(of: QualityPass) -> tuple[float, float]:
    """Of the 16-bit reference and of the cell: exp of the mean negative log-likelihood."""
    return math.exp(statistics.fmean(of.nll_reference_nats)), math.exp(statistics.fmean(of.nll_quantized_nats))


def perplexity_ratio(of: QualityPass) -> Estimate:
    """The cell's over the reference's, paired: exp of the mean difference of log-likelihoods (llama.cpp #6936)."""
    pairs = zip(of.nll_quantized_nats, of.nll_reference_nats, strict=True)
    found = _mean(of, [quantized - reference for quantized, reference in pairs])
    ends = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return Estimate(math.exp(found.value), *ends)


def compare_kl(first: QualityPass, second: QualityPass) -> Comparison:
    """Whether the first's mean KL is better (lower), worse, or cannot be told apart from the second's.

    Paired on positions, 95% interval over documents. Raises ValueError where the positions or references differ.
    """
    if not same_positions(first, second):
        raise ValueError("two methods are compared on the same positions of the same text and reference only")
    found = _mean(first, [a - b for a, b in zip(first.kl_nats, second.kl_nats, strict=True)])
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return Comparison("cannot be told apart", found)
    return Comparison("better" if found.high < 0 else "worse", found)


def near_lossless(of: QualityPass) -> bool:
    """Mean KL is too small to rank by."""
    return statistics.fmean(of.kl_nats) < NEAR_LOSSLESS_NATS


def compare_quality(first: QualityPass, second: QualityPass) -> Verdict:
    """As `compare_kl`, but two that are near lossless are not ranked. Raises ValueError as there."""
    if near_lossless(first) and near_lossless(second):
        return "cannot be told apart"
    return compare_kl(first, second).verdict


def same_positions(first: QualityPass, second: QualityPass) -> bool:
    """Whether two passes read the same tokens on the same path with the same reference."""
    names = (
        "path",
        "corpus",
        "corpus_hash",
        "tokenizer",
        "window",
        "stride",
        "bos",
        "reference_dtype",
        "document_ends",
    )
    return all(getattr(first, name) == getattr(second, name) for name in names)


def identical(continuations: Sequence[GreedyContinuation]) -> Identical | None:
    """Of greedy answers; None without any."""
    if not continuations:
        return None
    parted = [c.num_identical for c in continuations if c.num_identical < c.length]
    share = 1 - len(parted) / len(continuations)
    return Identical(share, statistics.median(parted) if parted else None)


def _mean(of: QualityPass, values: Sequence[float]) -> Estimate:
    """Mean over positions with its interval over documents."""
    blocks = [(math.fsum(values[d]), d.stop - d.start) for d in of.documents]
    mean = math.fsum(total for total, _ in blocks) / of.num_positions
    return Estimate(mean, *(_interval(blocks, mean) or (None, None)))


def _interval(blocks: Sequence[tuple[float, int]], mean: float) -> tuple[float, float] | None:
    """Bootstrap-t over blocks of (sum, number of positions): Efron and Tibshirani 1993, chapter 12.5.

    Plain percentiles are too narrow for a few dozen blocks of unlike sizes. Seeded: the same text gives the same ends.
    """
    if len(blocks) < MIN_DOCUMENTS:
        return None
    error = _standard_error(blocks, mean)
    if error == 0:
        return mean, mean
    draws = random.Random(SEED)
    ts = []
    for _ in range(RESAMPLES):
        drawn = draws.choices(blocks, k=len(blocks))
        drawn_mean = math.fsum(total for total, _ in drawn) / sum(n for _, n in drawn)
        drawn_error = _standard_error(drawn, drawn_mean)
        if drawn_error > 1e-9 * error:  # else one block was drawn over and over
            ts.append((drawn_mean - mean) / drawn_error)
    ts.sort()
    tail = round(len(ts) * (1 - _LEVEL) / 2)
    return mean - ts[-1 - tail] * error, mean - ts[tail] * error


def _standard_error(blocks: Sequence[tuple[float, int]], mean: float) -> float:
    """Of a ratio of sums, by linearisation: sqrt(D / (D - 1) * sum((sum_d - mean n_d)^2)) / n (Cochran 1977, 6.4)."""
    squares = math.fsum((total - mean * n) ** 2 for total, n in blocks)
    return math.sqrt(squares * len(blocks) / (len(blocks) - 1)) / sum(n for _, n in blocks)


def pareto(candidates: Sequence[T], axes: Sequence[Callable[[T, T], Verdict]]) -> list[bool]:
    """Which candidates no other dominates. An axis says how its first argument compares with its second.

    One dominates another where it is worse on no axis and better on one: two that can't be told apart on every axis
    both stay.
    """

    def dominates(a: T, b: T) -> bool:
        better = False
        for axis in axes:  # the dearest comes last and is asked only where it decides
            found = axis(a, b)
            if found == "worse":
                return False
            better = better or found == "better"
        return better

    return [not any(dominates(a, b) for a in candidates if a is not b) for b in candidates]
