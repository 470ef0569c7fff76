import math
import random

import pytest
from pydantic import ValidationError

from bitbench.facts.quality import QualityPass, rounded
from tests.quality_passes import quality_pass


def test_a_position_costs_some_33_bytes():
    rng = random.Random(1)
    values = [[rng.lognormvariate(-3, 2) for _ in range(100)] for _ in range(40)]
    of = quality_pass(values, nll=([rng.expovariate(0.3) for _ in range(4000)],) * 2)
    assert len(of.model_dump_json()) / 4000 < 35
    assert QualityPass.model_validate_json(of.model_dump_json()) == of


def test_rounding_hardly_moves_a_mean():
    rng = random.Random(1)
    values = [rng.lognormvariate(-3, 2) for _ in range(1000)]
    assert math.fsum(rounded(values)) == pytest.approx(math.fsum(values), rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="finite"):
        rounded([value])


@pytest.mark.parametrize(
    "change",
    [
        {"top1_agrees": "11"},
        {"top1_agrees": "112"},
        {"top5_overlap": "456"},
        {"document_ends": (0, 3)},
        {"document_ends": (2,)},
    ],
)
def test_entries_that_do_not_fit_are_refused(change):
    good = quality_pass([[0.1, 0.2], [0.3]])
    assert [len(good.kl_nats[d]) for d in good.documents] == [2, 1]
    with pytest.raises(ValidationError):
        QualityPass.model_validate(good.model_dump() | change)
