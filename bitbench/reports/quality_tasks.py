"""Task accuracies that lm-evaluation-harness found, paired between methods on the same documents."""

import math
import statistics
from collections.abc import Sequence

from bitbench.facts.quality import TaskScores
from bitbench.reports.section import Section
from bitbench.results.record import QualityRecord

# 95% of a normal distribution: differences are means over hundreds of documents.
_Z = 1.96


def task_sections(records: Sequence[QualityRecord]) -> list[Section]:
    """One for each task and metric, in the order of first appearance."""
    tasks: dict[tuple[str, str, str, int], list[tuple[str, TaskScores]]] = {}
    for record in records:
        for one in record.tasks:
            key = (one.task, one.metric, one.documents_hash, one.num_fewshot)
            tasks.setdefault(key, []).append((record.subject.method_label, one))
    return [_section(rows) for rows in tasks.values()]


def _section(rows: Sequence[tuple[str, TaskScores]]) -> Section:
    label, first = rows[0]
    title = (
        f"task {first.task} {first.task_version}, {first.metric}: {len(first.scores)} documents, "
        f"{first.num_fewshot}-shot, lm-evaluation-harness {first.lm_eval}"
    )
    head = ("method", "mean", "± standard error", f"minus {label}, 95%")
    return Section(title, head, [_row(name, one, first) for name, one in rows])


def _row(label: str, of: TaskScores, first: TaskScores) -> tuple[str, ...]:
    mean = statistics.fmean(of.scores)
    difference = "-"
    if of is not first:
        paired = [a - b for a, b in zip(of.scores, first.scores, strict=True)]
        middle, half = statistics.fmean(paired), _Z * _standard_error(paired)
        difference = f"{middle:+.3f} ({middle - half:+.3f} to {middle + half:+.3f})"
    return (label, f"{mean:.3f}", f"{_standard_error(of.scores):.3f}", difference)


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
