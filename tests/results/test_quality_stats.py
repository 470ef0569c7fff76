import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from bitbench.facts.quality import GreedyContinuation
from bitbench.results import quality_stats
from bitbench.results.quality_stats import Comparison, Identical
from tests.quality_passes import quality_pass

KLS = st.lists(st.floats(0, 20).map(lambda x: float(f"{x:.4g}")), min_size=1, max_size=60)


@given(KLS)
def test_the_summary_is_numpys(kls):
    found = quality_stats.kl(quality_pass([kls]))
    assert (found.mean, found.median, found.max) == pytest.approx((np.mean(kls), np.median(kls), max(kls)))
    assert found.p99 == np.quantile(kls, 0.99, method="inverted_cdf")


def test_agreement_overlap_and_perplexity_by_hand():
    of = quality_pass([[0.1, 0.2], [0.3, 0.4]], top1="1011", top5="5430", nll=([1, 2, 3, 2], [1.5, 2, 3.5, 3]))
    assert quality_stats.top1_agreement(of).value == 0.75
    assert quality_stats.top5_overlap(of).value == pytest.approx(12 / 20)
    assert quality_stats.perplexities(of) == pytest.approx((math.exp(2), math.exp(2.5)))
    found = quality_stats.perplexity_ratio(of)
    assert found.value == pytest.approx(math.exp(0.5))
    assert found.low is None and found.high is None, "two documents give no interval"


def documents(seed: int, num: int, mean: float = 0.3, spread: float = 0.5) -> list[list[float]]:
    """Skewed values whose level differs by document, of 5 to 60 positions."""
    rng = random.Random(seed)
    levels = [rng.lognormvariate(math.log(mean) - spread**2 / 2, spread) for _ in range(num)]
    return [[rng.expovariate(1 / level) for _ in range(rng.randint(5, 60))] for level in levels]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(5, 12))
def test_intervals_hold_the_value_and_repeat(seed, num):
    of = quality_pass(documents(seed, num))
    found = quality_stats.mean_kl(of)
    assert found.low is not None and found.high is not None
    assert found.low <= found.value <= found.high
    assert quality_stats.mean_kl(of) == found


def test_95_of_100_intervals_hold_the_true_mean(monkeypatch):
    monkeypatch.setattr(quality_stats, "RESAMPLES", 400)
    held, repeats = 0, 200
    for seed in range(repeats):
        found = quality_stats.mean_kl(quality_pass(documents(seed, 20)))
        held += found.low <= 0.3 <= found.high
    # Three standard deviations of a binomial, and 2% for what a bootstrap of 20 skewed blocks misses.
    assert abs(held / repeats - 0.95) < 3 * math.sqrt(0.95 * 0.05 / repeats) + 0.02


def test_many_equal_documents_give_the_interval_of_the_normal_theory():
    rng = random.Random(1)
    values = [[rng.gauss(5, 1)] for _ in range(200)]
    found = quality_stats.mean_kl(quality_pass(values))
    flat = [v for block in quality_pass(values).kl_nats for v in [block]]
    low, high = reference.t.interval(0.95, 199, loc=statistics.fmean(flat), scale=reference.sem(flat))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_a_method_compared_with_itself_cannot_be_told_apart():
    of = quality_pass(documents(1, 10))
    found = quality_stats.compare_kl(of, of)
    assert found.verdict == "cannot be told apart" and found.difference.value == 0


@pytest.mark.parametrize(("factor", "verdict"), [(0.9, "better"), (1.1, "worse")])
def test_a_small_constant_difference_is_seen_because_it_is_paired(factor, verdict):
    blocks = documents(1, 20)
    first = quality_pass([[v * factor for v in block] for block in blocks])
    found = quality_stats.compare_kl(first, quality_pass(blocks))
    assert isinstance(found, Comparison) and found.verdict == verdict
    alone = quality_stats.mean_kl(first)
    assert alone.high - alone.low > 3 * (found.difference.high - found.difference.low)


def test_noise_is_no_difference():
    """At most one in twenty, with the same allowance as above."""
    told = sum(
        quality_stats.compare_kl(noisy(seed, 1), noisy(seed, 2)).verdict != "cannot be told apart" for seed in range(60)
    )
    assert told / 60 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 60)


def noisy(seed: int, own: int):
    rng = random.Random(seed * 1000 + own)
    return quality_pass([[v * rng.lognormvariate(0, 0.2) for v in block] for block in documents(seed, 12)])


def test_other_positions_are_not_compared():
    with pytest.raises(ValueError, match="same positions"):
        quality_stats.compare_kl(quality_pass([[0.1], [0.2]]), quality_pass([[0.1, 0.2]]))


def test_identical_answers_and_where_the_others_part():
    answers = [GreedyContinuation(prompt_index=i, num_identical=n, length=48) for i, n in enumerate((48, 3, 11, 48))]
    assert quality_stats.identical(answers) == Identical(0.5, 7)
    assert quality_stats.identical(answers[:1]) == Identical(1.0, None)
    assert quality_stats.identical([]) is None


def axis(index: int, tolerance: float):
    """Greater is better; within the tolerance nobody can tell."""

    def verdict(a, b):
        if abs(a[index] - b[index]) <= tolerance:
            return "cannot be told apart"
        return "better" if a[index] > b[index] else "worse"

    return verdict


POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=8)


@given(POINTS)
def test_without_ties_the_pareto_set_is_the_textbooks(points):
    found = quality_stats.pareto(points, [axis(i, 0) for i in range(3)])
    by_hand = [not any(all(x >= y for x, y in zip(a, b, strict=True)) and a != b for a in points) for b in points]
    assert found == by_hand
    assert any(found)


@given(POINTS)
def test_those_that_cannot_be_told_apart_all_stay(points):
    assert all(quality_stats.pareto(points, [axis(i, 4) for i in range(3)]))
