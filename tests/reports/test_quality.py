"""Quality in full, and in the advice: what a person reads of it."""

import json
import random

import pytest

from bitbench.facts.quality import TaskScores
from bitbench.reports.advice import NO_SPEED, QUALITY_NOTE, advise, remarks
from bitbench.reports.formats import render
from bitbench.reports.groups import groups, headings
from bitbench.reports.quality import quality_markdown, quality_report
from bitbench.reports.table import table
from bitbench.results.summary import summarize
from tests.factories import h200, h200_qualities, numerics, processes, quality, quality_record
from tests.golden import DATA, quality_table_text, quality_text


def test_the_golden_texts_still_stand():
    assert quality_table_text() == (DATA / "table-quality-140.txt").read_text()
    assert quality_text() == (DATA / "quality-120.txt").read_text()


@pytest.mark.parametrize("width", [60, 80, 110, 200])
def test_no_line_is_wider_than_the_terminal(width):
    for line in quality_report(h200_qualities(), width).plain.splitlines():
        assert len(line) <= width, line


def test_methods_that_cannot_be_told_apart_are_named_with_the_difference():
    text = " ".join(quality_report(h200_qualities(), 200).plain.split())
    assert "cannot be told apart (paired, difference of mean KL): awq-int4:gemm and awq-int4:marlin (+0.0000" in text
    assert "near lossless, so not ranked by KL: fp16" in text
    apart = " ".join(quality_report([quality_record("a", 0.2), quality_record("b", 0.3)], 200).plain.split())
    assert "every other pair can be told apart (paired)" in apart and "cannot be" not in apart


def test_few_texts_give_no_interval_and_tell_nothing_apart():
    few = [quality_record(name, quality=quality(kl, num_documents=3)) for name, kl in (("a", 0.2), ("b", 0.3))]
    text = " ".join(quality_report(few, 200).plain.split())
    assert "too few texts for an interval" in text


def test_random_weights_are_not_called_near_lossless():
    of = quality(0.0001)
    random_weights = of.model_copy(
        update={"passes": tuple(p.model_copy(update={"context_free_kl_nats": 0.02}) for p in of.passes)}
    )
    text = " ".join(quality_report([quality_record("bnb-nf4", quality=random_weights)], 200).plain.split())
    assert text.count("there is no quality to be lost here") == 3 and "so not ranked" not in text


def test_what_could_not_be_compared_is_named_with_its_reason():
    failed = quality_record("bnb-int8", status="out_of_memory", reason="2 GB were asked for")
    text = quality_report([*h200_qualities(), failed], 200).plain
    assert " ! bnb-int8: out_of_memory: 2 GB were asked for" in text


def test_storing_and_unchecked_layers_are_said():
    of = quality(0.2, numerics=numerics(num_unchecked=3))
    stored = of.model_copy(update={"passes": tuple(p.model_copy(update={"storage_kl_nats": 3e-7}) for p in of.passes)})
    text = " ".join(quality_report([quality_record("bnb-nf4", quality=stored)], 200).plain.split())
    assert "the reference was stored in 16 bit, at a KL of 3e-07 to itself" in text
    assert "168 (3 not)" in text


def tasks(*scores: float) -> tuple[TaskScores, ...]:
    return (
        TaskScores(
            task="arc_easy", task_version="1.0", lm_eval="0.4.13", metric="acc", num_fewshot=0, documents_hash="d",
            scores=scores,
        ),
    )  # fmt: skip


def test_tasks_are_paired_with_the_first_row():
    records = [
        quality_record("fp16", 0.0001, bits=16, tasks=tasks(*[1.0] * 8, 0.0, 0.0)),
        quality_record("bnb-nf4", 0.2, tasks=tasks(*[1.0] * 7, 0.0, 0.0, 0.0)),
    ]
    text = quality_report(records, 200).plain
    assert "task arc_easy 1.0, acc: 10 documents, 0-shot, lm-evaluation-harness 0.4.13" in text
    line = next(line for line in text.splitlines() if line.split()[:2] == ["bnb-nf4", "0.700"])
    assert "-0.100 (-0.296 to +0.096)" in line  # one of ten flips: 0.1 ± 1.96 x 0.1


def test_markdown_has_equally_many_cells_in_every_row():
    text = quality_markdown(h200_qualities())
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def advice(records, qualities):
    (group,) = groups(summarize(records, (), qualities))
    return {a.label: a.text for a in advise(group)}, remarks(group)


BASE = processes("fp16", [0.010] * 5)
LOSSLESS = quality_record("fp16", 0.0001, bits=16)


def small(method: str, tpot: float, gb: float = 0.4):
    return processes(method, [tpot * a for a in (0.99, 1.0, 1.01, 1.0, 0.995)], weights=int(gb * 1e9), bits=4)


def test_a_faster_row_of_worse_quality_is_no_substitute():
    records = [*BASE, *small("bnb-int8", 0.008), *small("bnb-nf4", 0.006)]
    qualities = [LOSSLESS, quality_record("bnb-int8", 0.05), quality_record("bnb-nf4", 0.3)]
    found, notes = advice(records, qualities)
    assert found["bnb-int8"].startswith("take it, if that quality will do: 1.25x")
    assert "KL 0.050, 95.5 % of likeliest tokens kept, perplexity 1.06" in found["bnb-int8"]
    assert not [line for line in notes if "quality" in line]
    without, notes = advice(records, [])
    assert without["bnb-int8"].startswith("take bnb-nf4 instead: 1.33x")
    assert QUALITY_NOTE in notes


def test_better_quality_for_nothing_is_taken():
    records = [*BASE, *small("bnb-nf4", 0.006), *small("awq-int4", 0.006)]
    qualities = [LOSSLESS, quality_record("bnb-nf4", 0.3), quality_record("awq-int4", 0.1)]
    found, _ = advice(records, qualities)
    expected = (
        "take awq-int4 instead: not measurably slower and as large, and better in quality (KL 0.100 against 0.300)"
    )
    assert found["bnb-nf4"] == expected


def test_a_near_lossless_row_that_is_faster_and_smaller_replaces_the_baseline():
    found, _ = advice([*BASE, *small("int8-wo", 0.006)], [LOSSLESS, quality_record("int8-wo", 0.005)])
    assert found["fp16"].startswith("the 16-bit baseline; take int8-wo instead: 1.67x")
    assert "as fast as this and 60 % smaller" in found["fp16"]
    assert found["fp16"].endswith("near lossless (KL 0.0050)")
    assert found["int8-wo"].startswith("take it: 1.67x")
    lossy, _ = advice([*BASE, *small("int8-wo", 0.006)], [LOSSLESS, quality_record("int8-wo", 0.05)])
    assert "take that, if that quality will do" in lossy["fp16"]


def test_a_smaller_row_that_is_as_fast_and_as_good_is_taken():
    """As the mark says: the row is not in the Pareto set."""
    records = [*BASE, *small("int8-wo", 0.010), *small("awq-int4", 0.010, 0.2)]
    qualities = [LOSSLESS, quality_record("int8-wo", 0.005), quality_record("awq-int4", 0.2)]
    found, _ = advice(records, qualities)
    expected = "take int8-wo instead: not measurably slower and 60 % smaller; near lossless (KL 0.0050)"
    assert found["fp16"] == f"the 16-bit baseline; {expected}"
    assert "awq-int4 is not measurably slower" not in found["int8-wo"], "it is worse in quality"
    assert [row.pareto for row in summarize(records, (), qualities)] == [False, True, True]
    without, _ = advice(records, [])
    assert without["int8-wo"].endswith("awq-int4 is not measurably slower and smaller still")


@pytest.mark.parametrize("seed", range(20))
def test_a_row_is_sent_elsewhere_exactly_where_it_is_not_marked(seed):
    """The mark in the table and the advice follow the same comparisons."""
    draws = random.Random(seed)
    names = [f"m-{i}" for i in range(5)]
    records, qualities = [*BASE], [LOSSLESS]
    for name in names:
        records += small(name, draws.choice([0.005, 0.01, 0.02]), draws.choice([0.2, 0.4, 1.0]))
        qualities.append(quality_record(name, draws.choice([0.002, 0.005, 0.05, 0.2])))
    summaries = summarize(records, (), qualities)
    found, _ = advice(records, qualities)
    for row in summaries:
        assert ("instead" in found[row.method]) == (not row.pareto), (row.method, found)


def test_rows_whose_quality_is_not_known_are_named():
    _, notes = advice([*BASE, *small("bnb-nf4", 0.006)], [LOSSLESS])
    assert "quality was not measured for bnb-nf4" in notes


def test_quality_alone_makes_a_table_too():
    found = summarize([], (), h200_qualities())
    (group,) = groups(found)
    assert headings(group)[0].endswith("transformers 5.17.0 · quality; speed was not measured")
    assert {a.text for a in advise(group)} == {NO_SPEED}
    text = table(found, 110).plain
    assert "KL" in text and "new tokens" not in text
    row = json.loads(str(render(found, "json", 100)))[1]
    assert row["kl_mean"] == pytest.approx(0.02, rel=1e-3) and row["decode_tokens_per_s"] is None


def test_the_mark_stands_in_the_table_and_is_explained():
    text = table(summarize(h200(), (), h200_qualities()), 140).plain
    marked = [line.split()[0] for line in text.splitlines() if line.endswith(" *")]
    assert marked == ["fp16", "bnb-int8", "awq-int4:marlin"]
    assert "Pareto: no other row of the table is better" in text
