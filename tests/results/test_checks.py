from typing import get_args

import pytest

from bitbench.facts.samples import PowerSample
from bitbench.facts.status import Flag
from bitbench.results.checks import file_warnings, table_warnings
from bitbench.results.record import Ending, Record
from bitbench.results.row_checks import ROW_CHECKS
from bitbench.results.summary import summarize
from bitbench.results.table_checks import FILE_CHECKS, TABLE_CHECKS
from tests.factories import ENVIRONMENT, ending, processes, profile, record, sample

HOT = (PowerSample(at_s=99.0, throttle_reasons=("HwSlowdown",)), PowerSample(at_s=100.9))
ON_CPU = {"where": {"device": "cpu"}}
# Five even processes of four prompts at half the ceiling: nothing to warn about.
CLEAN = processes("bf16", [0.0005] * 5, dtype="bfloat16")


def _names(records: list[Record], endings: list[Ending] | None = None) -> set[str]:
    rows = summarize(records, endings or [])
    return {w.name for w in [*table_warnings(rows), *file_warnings(rows)]}


def _cold() -> list[Record]:
    return [
        r.model_copy(update={"samples": (sample(0.0005, ttft=0.2, warmup=True), *r.samples)}) for r in CLEAN
    ]  # fmt: skip


CASES: dict[str, tuple[list[Record], list[Ending]]] = {
    "failed_processes": ([*CLEAN, record("bf16", status="timeout", process=5)], []),
    "fallback_kernel": (processes("bf16", [0.0005] * 5, flags=("fallback_kernel",)), []),
    "untuned": (processes("bf16", [0.0005] * 5, kernel="Triton, untuned"), []),
    "few_processes": (CLEAN[:4], []),
    "few_samples": (processes("bf16", [0.0005] * 5, prompts=1), []),
    "spread_between": (processes("bf16", [0.0005, 0.0006, 0.0005, 0.0006, 0.0005]), []),
    "spread_within": ([record("bf16", [0.0004, 0.0005, 0.0006], process=i) for i in range(5)], []),
    "precision": (CLEAN, [ending("bf16", asked_precision=0.01, reached_precision=0.02)]),
    "throttled": (processes("bf16", [0.0005] * 5, power=HOT), []),
    "unstable": (processes("bf16", [0.0005] * 5, flags=("unstable",)), []),
    "noisy_tokens": (processes("bf16", [0.0005] * 5, flags=("noisy_tokens",)), []),
    "busy_device": (processes("bf16", [0.0005] * 5, flags=("busy_device",)), []),
    "busy_host": (processes("bf16", [0.0005] * 5, flags=("busy_host",)), []),
    "outlier": ([record("bf16", [5e-4, 5.01e-4, 4.99e-4, 5.02e-4, 9e-4], process=i) for i in range(5)], []),
    "beats_cache_ceiling": (processes("bf16", [0.0001] * 5, weights=100_000_000, bandwidth=4e11), []),
    "cold_ttft": (_cold(), []),
    "no_baseline": (processes("int4", [0.0005] * 5, bits=4), []),
    "several_checkpoints": ([*CLEAN, *processes("bf16", [0.0005] * 5, checkpoint="other")], []),
    "fp16_on_cpu": (processes("fp16", [0.0005] * 5, **ON_CPU), []),
    "unprofiled_speeds": (processes("bf16", [0.02] * 5), []),
    "host_speeds": (processes("bf16", [0.02] * 5, profiles=(profile(),)), []),
    "kernel_speeds": (processes("bf16", [0.003] * 5, profiles=(profile(),)), []),
    "several_environments": ([*CLEAN, record(environment=ENVIRONMENT.model_copy(update={"machine": "f"}))], []),
}
# What a case brings with it beside its own name.
ALSO = {"outlier": {"spread_within"}, "several_environments": {"few_processes", "few_samples", "unprofiled_speeds"}}


def test_an_even_run_is_not_warned_about() -> None:
    assert _names(CLEAN, [ending("bf16", asked_precision=0.03, reached_precision=0.02)]) == set()


@pytest.mark.parametrize("name", CASES)
def test_each_check_applies_where_it_should_and_nothing_else_does(name: str) -> None:
    found = _names(*CASES[name])
    assert name in found
    assert found - {name} <= ALSO.get(name, set())


def test_every_check_has_a_case_and_advice() -> None:
    every = [*ROW_CHECKS, *TABLE_CHECKS, *FILE_CHECKS]
    assert {c.name for c in every} == set(CASES)
    assert all(c.advice and c.title for c in every)


def test_every_flag_has_its_advice() -> None:
    assert set(get_args(Flag)) <= {c.name for c in ROW_CHECKS}


def _detail(name: str, records: list[Record], endings: list[Ending] | None = None) -> str:
    (found,) = [w for w in table_warnings(summarize(records, endings or [])) if w.name == name]
    return found.details[0][1]


def test_details_say_what_was_found() -> None:
    assert _detail("throttled", processes("bf16", [0.0005] * 5, power=HOT)) == "5 left out"
    hot = processes("bf16", [0.0005] * 5, power=HOT[:1])
    assert _detail("throttled", hot) == "all 20, so they count"
    assert _detail("throttled", [*hot[:1], *CLEAN[1:]]) == "4 left out"
    ended = ending("bf16", asked_precision=0.03, reached_precision=None, ended_by="failure")
    assert (
        _detail("precision", CLEAN, [ended])
        == "unknown (it takes two processes that count) of 3.0% asked: a process failed"
    )
    assert _detail("failed_processes", CASES["failed_processes"][0]) == "1 of 6 (timeout)"


def test_a_bfloat16_row_or_a_gpu_takes_the_cpu_warning_away() -> None:
    both = [*processes("fp16", [0.0004] * 5, **ON_CPU), *processes("bf16", [0.0005] * 5, dtype="bfloat16", **ON_CPU)]
    assert "fp16_on_cpu" not in _names(both)
    assert "fp16_on_cpu" not in _names(processes("fp16", [0.0005] * 5))


def test_low_use_of_the_bandwidth_is_said_of_gpus_and_only_if_all_rows_are_low() -> None:
    slow = processes("bf16", [0.02] * 5)
    assert "unprofiled_speeds" not in _names([*slow, *processes("int4", [0.0005] * 5, bits=4)])
    assert "unprofiled_speeds" not in _names(processes("bf16", [0.02] * 5, dtype="bfloat16", **ON_CPU))


def test_a_profile_says_why_the_bandwidth_is_not_used() -> None:
    seen = processes("bf16", [0.02] * 5, profiles=(profile(),))
    unseen = processes("int4", [0.02] * 5, bits=4)
    assert _detail("host_speeds", seen) == (
        "at most 1.2% of the read bandwidth was used; the GPU was busy for at most 10% of a step"
    )
    assert _detail("host_speeds", [*seen, *unseen]).endswith("of a step, seen in 1 of 2 rows")
    busy = processes("int8", [0.003] * 5, bits=8, profiles=(profile(),))
    assert "host_speeds" not in _names([*seen, *busy]) and "kernel_speeds" in _names([*seen, *busy])
