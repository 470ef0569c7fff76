"""Quality stands beside the speed of the very cell it is about, and never beside another's."""

import pytest

from bitbench.facts.samples import KernelReport
from bitbench.results import quality_stats
from bitbench.results.metrics import METRICS
from bitbench.results.summary import summarize
from tests.factories import ENVIRONMENT, cell, h200, h200_qualities, processes, quality, quality_record, record

SUBJECT = cell("bnb-nf4").subject


def rows(*qualities, records=None):
    return summarize(records or processes("bnb-nf4", [0.01] * 5, bits=4), (), qualities)


def test_figures_of_the_row_are_those_of_the_decode_path_on_the_named_text():
    (row,) = rows(quality_record("bnb-nf4", 0.2))
    main = quality(0.2, agree=0.8).passes[1]
    assert (main.path, main.corpus) == ("decode", "test")
    assert row.quality.main == main
    values = {key: METRICS[key].value(row) for key in METRICS}
    assert values["kl_mean"] == quality_stats.kl(main).mean == pytest.approx(0.2, rel=1e-3)
    assert values["kl_p99"] == quality_stats.kl(main).p99
    assert values["top1_agreement"] == quality_stats.top1_agreement(main).value
    ratio = quality_stats.perplexity_ratio(main)
    assert values["perplexity_ratio"] == ratio.value and values["perplexity_ratio_ci"] == [ratio.low, ratio.high]
    assert values["identical_answers"] == pytest.approx(1 / 5)
    assert values["quality_text"] == "test, decode, 88 positions of 8 texts, reference bfloat16"


def test_without_a_text_they_are_those_of_the_references_own_answers():
    only = quality(0.2).model_copy(update={"passes": quality(0.2).passes[:1]})
    (row,) = rows(quality_record("bnb-nf4", quality=only))
    assert row.quality.main.corpus == "continuations"


@pytest.mark.parametrize(
    "change",
    [
        {"subject": SUBJECT.model_copy(update={"engine": "graphed"})},
        {"subject": SUBJECT.model_copy(update={"kernel": "other"})},
        {"subject": SUBJECT.model_copy(update={"model": "demo"})},
        {"subject": SUBJECT.model_copy(update={"device": "cpu"})},
        {"checkpoint_hash": "other numbers"},
        {"environment": ENVIRONMENT.model_copy(update={"versions": {"torch": "2.12.0"}})},
        {"environment": ENVIRONMENT.model_copy(update={"machine": "other"})},
    ],
)
def test_of_another_cell_machine_or_checkpoint_it_is_a_row_of_its_own(change):
    timed, other = rows(quality_record("bnb-nf4").model_copy(update=change))
    assert timed.quality is None and METRICS["kl_mean"].value(timed) is None
    assert other.quality is not None and other.workload == "" and other.tpot_s is None and other.status == "ok"
    assert other.table_key != timed.table_key


def test_of_another_kernel_it_is_not_the_rows():
    ran = KernelReport(name="another kernel", module_classes={})
    (row,) = rows(quality_record("bnb-nf4", kernel=ran))
    assert row.quality is None
    (row,) = rows(quality_record("bnb-nf4", kernel=KernelReport(name="cuBLAS", module_classes={})))
    assert row.quality is not None


def test_the_last_record_counts_but_a_failure_does_not_undo_a_success():
    first, second = quality_record("bnb-nf4", 0.2), quality_record("bnb-nf4", 0.3)
    failed = quality_record("bnb-nf4", status="out_of_memory", reason="r")
    assert rows(first, second)[0].quality.kl.mean == pytest.approx(0.3, rel=1e-3)
    assert rows(first, failed)[0].quality.kl.mean == pytest.approx(0.2, rel=1e-3)
    assert rows(failed)[0].quality is None and rows(failed)[0].status == "ok"


def test_what_is_broken_has_no_speed_whenever_it_was_found():
    (row,) = rows(quality_record("bnb-nf4", status="incorrect", reason="the output is broken"))
    assert (row.status, row.reason, row.tpot_s, row.quality) == ("incorrect", "the output is broken", None, None)


def test_a_row_that_was_never_timed_because_it_is_broken_is_one_row():
    refused = record("bnb-nf4", status="incorrect", reason="the output is broken", bits=4, checkpoint="")
    broken = quality_record("bnb-nf4", status="incorrect", reason="the output is broken")
    (row,) = rows(broken, records=[refused])
    assert (row.status, row.reason) == ("incorrect", "the output is broken")


def test_a_failed_row_and_one_of_several_workloads_keep_their_quality():
    records = [
        *processes("bnb-nf4", [0.01] * 2, bits=4),
        *processes("bnb-nf4", [0.02] * 2, bits=4, where={"workload": "p40-n128"}),
    ]
    assert [row.quality.kl.mean for row in rows(quality_record("bnb-nf4"), records=records)] == pytest.approx(
        [0.2] * 2, rel=1e-3
    )


def test_the_pareto_set_is_over_speed_weights_and_quality():
    found = {row.method: row.pareto for row in summarize(h200(), (), h200_qualities())}
    assert found == {
        "fp16": True,  # the fastest with the best quality
        "bnb-int8": True,  # smaller, and better than the 4-bit rows
        "bnb-nf4": False,  # awq-int4:marlin is faster, smaller and better
        "awq-int4:gemm": False,  # awq-int4:marlin is faster, the same size, the same numbers
        "awq-int4:marlin": True,
        "awq-int4:exllama": None,  # it never ran
    }


def test_near_lossless_rows_are_equals_in_quality():
    """The smaller of two as fast rows dominates, although its KL is measurably higher."""
    records = [*processes("fp16", [0.01] * 5), *processes("bnb-int8", [0.01] * 5, weights=500_000_000, bits=8)]
    near = [quality_record("fp16", 0.0001, bits=16), quality_record("bnb-int8", 0.008, bits=8)]
    assert [row.pareto for row in summarize(records, (), near)] == [False, True]
    far = [quality_record("fp16", 0.0001, bits=16), quality_record("bnb-int8", 0.02, bits=8)]
    assert [row.pareto for row in summarize(records, (), far)] == [True, True]


@pytest.mark.parametrize(
    "other", [None, quality_record("bnb-nf4", quality=quality(0.2, num_documents=9)), quality_record("bnb-nf4")]
)
def test_rows_without_quality_or_on_other_text_are_not_marked(other):
    records = [*processes("fp16", [0.01] * 5), *processes("bnb-nf4", [0.02] * 5, weights=500_000_000, bits=4)]
    qualities = [quality_record("fp16", 0.0001, bits=16), *([other] if other else [])]
    marks = [row.pareto for row in summarize(records, (), qualities)]
    assert marks == ([True, True] if other and len(other.quality.passes[1].documents) == 8 else [None, None])


def test_one_row_alone_is_no_set():
    assert rows(quality_record("bnb-nf4"))[0].pareto is None
    assert summarize([record()])[0].pareto is None
