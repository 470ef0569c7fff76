import math
import statistics

import pytest

from bitbench.facts.samples import PowerSample
from bitbench.results.stats import Interval
from bitbench.results.summary import CellSummary, summarize
from tests.factories import ENVIRONMENT, ending, h200, processes, profile, record, sample

SPEEDS = ("decode_tokens_per_s", "tpot_s", "ttft_s", "generate_tokens_per_s", "prefill_tokens_per_s", "mbu", "speedup")


def _only(records: list) -> CellSummary:
    (row,) = summarize(records)
    return row


def test_every_figure_of_a_row_by_hand() -> None:
    one = record(
        samples=[sample(0.5, ttft=0.9, warmup=True), sample(0.010, 1, ttft=0.02), sample(0.012, 2, ttft=0.04)],
        energy_j=6.0, energy_tokens=20,
    )  # fmt: skip
    two = record(samples=[sample(0.020, 1, ttft=0.03)], process=1, energy_j=4.0, energy_tokens=20)
    row = _only([one, two])
    assert (row.num_processes, row.num_samples, row.prompt_len) == (2, 3, 40)
    assert row.process_tpots_s == pytest.approx((0.011, 0.020))
    assert row.tpot_s == pytest.approx(0.0155)
    assert row.decode_tokens_per_s == pytest.approx(1 / 0.0155)
    found = row.decode_tokens_per_s_interval
    assert found is not None and found.kind == "range"
    assert (found.low, found.high) == pytest.approx((1 / 0.020, 1 / 0.011))
    assert row.ttft_s == pytest.approx(0.03)
    assert row.prefill_tokens_per_s == pytest.approx(40 / 0.03)
    assert row.generate_tokens_per_s == pytest.approx(33 / (0.12 + 0.16 + 0.23))
    assert row.energy_j_per_token == pytest.approx(10 / 40)
    assert row.spread_within == pytest.approx(statistics.stdev([0.010, 0.012]) / 0.011)
    assert row.spread_between == pytest.approx(statistics.stdev([math.log(0.011), math.log(0.020)]))
    assert row.ceiling_tokens_per_s == pytest.approx(4000)
    assert row.mbu == pytest.approx(1e9 / 0.0155 / 4e12)
    assert (row.baseline, row.is_baseline, row.speedup, row.memory_saved) == ("fp16", True, 1.0, 0.0)


def test_a_batch_multiplies_tokens_but_not_times() -> None:
    batch = [sample(0.01, batch_size=4)]
    row = _only([record(samples=batch, batch_size=4)])
    assert row.decode_tokens_per_s == pytest.approx(400)
    assert row.prefill_tokens_per_s == pytest.approx(4 * 40 / 0.02)
    assert row.generate_tokens_per_s == pytest.approx(44 / 0.12)
    assert row.ceiling_tokens_per_s == pytest.approx(16_000)


def test_one_new_token_has_a_ttft_and_no_decode_speed() -> None:
    row = _only([record(samples=[sample(output_len=1)], output_len=1)])
    assert row.status == "ok" and row.ttft_s == 0.02 and row.ceiling_tokens_per_s == pytest.approx(4000)
    assert row.decode_tokens_per_s is row.tpot_s is row.mbu is row.speedup is row.baseline is None


def test_five_processes_have_a_t_interval_between_processes() -> None:
    row = _only(processes("fp16", [0.010, 0.011, 0.012, 0.010, 0.011]))
    found = row.decode_tokens_per_s_interval
    assert found is not None and found.kind == "t95"
    assert found.low < row.decode_tokens_per_s < found.high  # type: ignore[operator]


def test_memory_is_the_median_and_of_peaks_the_greatest() -> None:
    row = _only([record(process=i, weights=1_000 + i, peak=5_000 - i) for i in range(3)])
    assert (row.weights_bytes, row.peak_memory_bytes, row.load_peak_bytes) == (1_001, 5_000, 1_002)
    assert _only([record(memory=None)]).weights_bytes is None


def test_the_baseline_is_the_fastest_16_bit_row_whatever_its_name() -> None:
    rows = summarize(
        [
            *processes("slow16", [0.02] * 5),
            *processes("fast16", [0.01] * 5, weights=2_000_000_000),
            *processes("four", [0.008] * 5, bits=4, weights=500_000_000),
        ]
    )
    assert [r.baseline for r in rows] == ["fast16"] * 3
    assert [r.is_baseline for r in rows] == [False, True, False]
    assert [r.speedup for r in rows] == pytest.approx([0.5, 1.0, 1.25])
    assert [r.memory_saved for r in rows] == pytest.approx([0.5, 0.0, 0.75])
    assert rows[1].speedup_interval is None
    assert rows[2].speedup_interval is not None and rows[2].speedup_interval.contains(1.25)


@pytest.mark.parametrize(
    "where", [{"model": "other"}, {"engine": "fused"}, {"workload": "p40-n128"}, {"device": "cuda:1"}]
)
def test_a_baseline_counts_only_for_its_own_table(where: dict[str, str]) -> None:
    rows = summarize([record("fp16"), record("four", bits=4, where=where)])
    assert rows[1].baseline is None and rows[1].speedup is None and rows[1].memory_saved is None


def test_another_environment_has_its_own_baseline() -> None:
    other = ENVIRONMENT.model_copy(update={"machine": "ffff"})
    rows = summarize([record("fp16"), record("four", bits=4), record("four", bits=4, environment=other)])
    assert [r.baseline for r in rows] == ["fp16", "fp16", None]


def test_the_speedup_of_single_processes_has_no_interval() -> None:
    rows = summarize([record("fp16"), record("four", [0.005], bits=4)])
    assert rows[1].speedup == pytest.approx(2.0) and rows[1].speedup_interval is None
    rows = summarize([*processes("fp16", [0.01, 0.02]), *processes("four", [0.01, 0.02], bits=4)])
    assert rows[1].speedup_interval == Interval(pytest.approx(0.5), pytest.approx(2.0), "range")


def test_a_failed_cell_carries_its_reason_and_no_speed() -> None:
    first = record(status="out_of_memory", reason="4 GB asked for")
    row = _only([first, record(status="timeout", reason="silent", process=1)])
    assert (row.status, row.reason) == ("out_of_memory", "4 GB asked for")
    assert all(getattr(row, name) is None for name in SPEEDS)


def test_some_failed_processes_are_counted_beside_the_ok_ones() -> None:
    dead = record(status="runtime_error", reason="SIGSEGV", process=2)
    row = _only([record(), record(process=1), dead, record(status="skipped", process=3)])
    assert (row.status, row.num_processes, row.num_failed, row.failure) == ("ok", 2, 1, "runtime_error: SIGSEGV")


def test_one_incorrect_process_makes_the_cell_incorrect() -> None:
    row = _only([record(), record(status="incorrect", reason="stale tokens", process=1)])
    assert (row.status, row.reason) == ("incorrect", "stale tokens")
    assert all(getattr(row, name) is None for name in SPEEDS)


def test_being_stopped_is_the_status_only_where_nothing_else_happened() -> None:
    stopped = [record(status="interrupted"), record(status="skipped", reason="budget", process=1)]
    assert _only(stopped).status == "interrupted"
    assert _only([*stopped, record(status="load_error", process=2)]).status == "load_error"
    assert (_only([*stopped, record(process=2)]).status, _only([*stopped, record(process=2)]).num_failed) == ("ok", 0)


def test_throttled_samples_are_left_out_unless_there_are_no_others() -> None:
    hot = (PowerSample(at_s=99.0, throttle_reasons=("HwSlowdown",)), PowerSample(at_s=100.9))
    part = record(tpots=[0.05, 0.01, 0.01], power=hot)
    row = _only([part])
    assert (row.num_samples, row.num_throttled, row.flags) == (2, 1, ("throttled",))
    assert row.tpot_s == pytest.approx(0.01)
    all_hot = record(tpots=[0.05, 0.05], power=hot[:1], process=1)
    assert _only([part, all_hot]).num_processes == 1
    alone = _only([all_hot])
    assert (alone.status, alone.num_samples, alone.num_throttled, alone.flags) == ("ok", 2, 2, ("throttled",))


def test_outliers_are_kept_and_flagged() -> None:
    row = _only([record(tpots=[0.0100, 0.0101, 0.0099, 0.0102, 0.0098, 0.05])])
    assert row.flags == ("outlier",) and row.num_samples == 6


def test_flags_notes_kernels_and_runs_are_gathered_once() -> None:
    row = _only(
        [
            record(flags=("unstable",), notes=("planted",), kernel="a"),
            record(flags=("busy_host", "unstable"), notes=("planted",), kernel="b", run="run-2", process=1),
        ]
    )
    assert (row.flags, row.notes, row.kernel) == (("unstable", "busy_host"), ("planted",), "a / b")
    assert row.run_ids == ("run-1", "run-2")


def test_the_first_h200_table() -> None:
    rows = summarize(h200(), [ending()])
    assert [r.method for r in rows][-2:] == ["awq-int4:marlin", "awq-int4:exllama"]
    assert [r.status for r in rows] == ["ok"] * 5 + ["unsupported"]
    assert rows[0].ending == ending()
    assert rows[1].speedup == pytest.approx(0.0175 / 0.061)
    assert rows[1].memory_saved == pytest.approx(1 - 631 / 988)


def test_a_profile_is_that_of_the_first_process_that_could_be_profiled() -> None:
    refused = profile(source="none", busy_s=None, note="not permitted")
    taken = profile(busy_s=2e-3)
    row = _only([record(profiles=(refused,)), record(process=1, profiles=(taken,)), record(process=2)])
    assert row.profile("decode") == taken and row.profile("prefill") is None
    assert row.gpu_busy == pytest.approx(0.2)
    assert (row.gpu_busy_s, row.num_kernels_per_step, row.num_syncs_per_step) == (2e-3, 1000, 2)
    assert _only([record(profiles=(refused,))]).profile("decode") == refused


def test_only_a_gpu_is_called_busy() -> None:
    row = _only([record(profiles=(profile(source="operators"),), where={"device": "cpu"})])
    assert row.gpu_busy is row.gpu_busy_s is row.num_kernels_per_step is row.num_syncs_per_step is None
    assert _only([record()]).gpu_busy is None
