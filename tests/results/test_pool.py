import pytest

from bitbench.facts.samples import PowerSample
from bitbench.results.pool import clean_samples, measured_samples, pools, throttled_samples
from tests.factories import ENVIRONMENT, GPU, ending, record, sample


def _look(at: float, *reasons: str) -> PowerSample:
    return PowerSample(at_s=at, throttle_reasons=reasons)


@pytest.mark.parametrize(
    ("looks", "throttled"),
    [
        ([], set()),
        ([_look(100.05, "HwSlowdown"), _look(100.5)], {0}),
        ([_look(99.0, "HwSlowdown"), _look(100.9), _look(102.0)], {0}),
        ([_look(101.9, "HwSlowdown")], {2}),
        ([_look(100.5), _look(102.05, "HwThermalSlowdown")], {2}),
        ([_look(102.7, "HwThermalSlowdown"), _look(99)], set()),
        ([_look(102.5, "SwPowerCap"), _look(102.3)], set()),
        ([_look(102.5, "SwPowerCap"), _look(101.9)], {2}),
    ],
    ids=[
        "never watched",
        "inside",
        "last look before",
        "until the end",
        "unsorted ends",
        "long after all",
        "the look after the next",
        "the next look",
    ],
)
def test_which_samples_were_throttled(looks: list[PowerSample], throttled: set[int]) -> None:
    # Three prompts of 0.12 s at 100, 101 and 102 s.
    one = record(tpots=[0.01] * 3, power=tuple(looks))
    assert throttled_samples(one) == throttled
    assert [s.prompt_index for s in clean_samples(one)] == [i for i in range(3) if i not in throttled]


def test_warm_ups_are_not_measured() -> None:
    one = record(samples=[sample(0.5, warmup=True), sample(0.01, 1)])
    assert [s.prompt_index for s in measured_samples(one)] == [1]


def test_other_drivers_versions_and_machines_are_never_pooled() -> None:
    others = [
        ENVIRONMENT.model_copy(update={"gpu": GPU.model_copy(update={"driver": "571.0"})}),
        ENVIRONMENT.model_copy(update={"versions": {**ENVIRONMENT.versions, "torch": "2.12.0"}}),
        ENVIRONMENT.model_copy(update={"machine": "ffff"}),
    ]
    found = pools([record(environment=e) for e in (ENVIRONMENT, *others, ENVIRONMENT)], [])
    assert [len(p.records) for p in found] == [2, 1, 1, 1]


def test_other_checkpoints_are_not_pooled_but_a_failure_before_loading_joins_its_cell() -> None:
    failed = record(status="load_error", checkpoint="", process=1)
    (joined,) = pools([record(process=0), failed, record(process=2)], [])
    assert [r.process_index for r in joined.records] == [0, 1, 2]
    apart = pools([record(checkpoint="a"), record(checkpoint="b"), failed], [])
    assert [p.checkpoint_hash for p in apart] == ["a", "b", ""]


def test_the_last_ending_of_its_runs_is_a_pools() -> None:
    endings = [ending(num_processes=1), ending(num_processes=2), ending(run_id="another", num_processes=9)]
    (pool,) = pools([record()], endings)
    assert pool.ending == endings[1]
    assert pools([record("bnb-nf4")], endings)[0].ending is None
