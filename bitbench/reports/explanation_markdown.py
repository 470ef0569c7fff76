"""The explanation as GitHub-flavoured Markdown, and as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bitbench.explain.experiments import Experiment
from bitbench.explain.rows import Explained
from bitbench.explain.step import bar
from bitbench.reports import why
from bitbench.reports.groups import groups, headings
from bitbench.reports.markdown import escaped, table_lines


def explanation_markdown(explained: Sequence[Explained], tested: Sequence[Experiment]) -> str:
    """A section for each table of rows, one for what was tested."""
    by_row = {id(e.row): e for e in explained}
    blocks: list[list[str]] = []
    for group in groups([e.row for e in explained]):
        first, *rest = headings(group)
        blocks += [[f"### {escaped(first)}"], [f"{escaped(line)}  " for line in rest]]
        for row, label in zip(group.rows, group.labels, strict=True):
            blocks += _row(by_row[id(row)], label)
    for experiment in tested:
        blocks.append([f"### {escaped(why.experiment_title(experiment))}"])
        blocks += [table_lines(experiment.head, experiment.lines), [f"Finding: {escaped(experiment.finding)}"]]
    blocks.append([f"- **!** {escaped(line)}" for line in why.missing(explained)])
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _row(explained: Explained, label: str) -> list[list[str]]:
    blocks = [[f"#### {escaped(why.title(explained, label))}"]]
    if explained.step is None:
        return blocks
    blocks.append([" · ".join(why.part(part, explained.step) for part in bar(explained.step) if part.seconds)])
    if explained.decode:
        blocks += [[escaped(explained.decode.sentence)], [f"- {escaped(line)}" for line in explained.decode.evidence]]
    if kernels := why.kernels(explained):
        blocks.append(table_lines(why.kernel_head(explained), kernels))
    if account := why.account_lines(explained):
        blocks += [[escaped(account)], table_lines(why.GAP_HEAD, why.gap_rows(explained)) if explained.gap else []]
    blocks.append([f"- **{name}**: {escaped(text)}" for name, text in why.conclusions(explained)])
    return blocks


def explanation_json(explained: Sequence[Explained], tested: Sequence[Experiment]) -> str:
    """`rows` and `tested`. Seconds and fractions; unknown is null."""
    found = {"rows": [_document(e) for e in explained], "tested": [asdict(t) for t in tested]}
    return json.dumps(found, indent=2, allow_nan=False)


def _document(explained: Explained) -> dict[str, Any]:
    row = explained.row
    return {
        "model": row.model,
        "method": row.method,
        "engine": row.engine,
        "workload": row.workload,
        "batch_size": row.batch_size,
        "device": row.device,
        "environment": row.environment.pool_key,
        "checkpoint_hash": row.checkpoint_hash,
        "status": row.status,
        "tpot_s": row.tpot_s,
        "decode": asdict(explained.decode) if explained.decode else None,
        "prefill": asdict(explained.prefill) if explained.prefill else None,
        "bar": {part.name: part.seconds for part in bar(explained.step)} if explained.step else None,
        "without_host": [asdict(c) for c in explained.without_host],
        "account": _account(explained),
        "gap_to_ceiling": [asdict(item) for item in explained.gap],
        "profile_notes": why.notes(row),
    }


def _account(explained: Explained) -> dict[str, float | bool] | None:
    account = explained.account
    if account is None:
        return None
    return {**asdict(account), "residual_s": account.residual_s, "residual": account.residual, "holds": account.holds}
