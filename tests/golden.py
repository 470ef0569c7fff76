"""Writes the golden files of the present schema and table: `python -m tests.golden`. Not for a released schema."""

import json
from pathlib import Path
from typing import Any

from bitbench.explain.experiments import experiments
from bitbench.explain.rows import explain
from bitbench.reports.explanation import explanation
from bitbench.reports.quality import quality_report
from bitbench.reports.table import table
from bitbench.results.record import LINE, SCHEMA_VERSION
from bitbench.results.summary import summarize
from tests.factories import ending, explained_h200, h200, h200_qualities, quality_record

DATA = Path(__file__).parent / "data"


def schema_text() -> str:
    """The JSON schema of a line, without the docstrings and the order of fields, which mean nothing to a reader."""

    def bare(node: Any) -> Any:
        if isinstance(node, dict):
            kept = {k: bare(v) for k, v in node.items() if not (k == "description" and isinstance(v, str))}
            required = kept.get("required")
            return kept | {"required": sorted(required)} if isinstance(required, list) else kept
        return [bare(x) for x in node] if isinstance(node, list) else node

    return json.dumps(bare(LINE.json_schema()), indent=1, sort_keys=True) + "\n"


def records_text() -> str:
    """A record file with all that a line can hold."""
    return "".join(line.model_dump_json() + "\n" for line in [*h200(), *h200_qualities(), ending()])


def table_text() -> str:
    """The table of that file at 100 columns."""
    return table(summarize(h200(), [ending()]), 100).plain + "\n"


def quality_table_text() -> str:
    """The same with quality beside speed, at 140 columns."""
    return table(summarize(h200(), [ending()], h200_qualities()), 140).plain + "\n"


def quality_text() -> str:
    """Quality in full at 120 columns, with a cell that is broken."""
    broken = quality_record("broken", status="incorrect", reason="the output is broken: mean KL is 9 nats")
    return quality_report([*h200_qualities(), broken], 120).plain + "\n"


def explanation_text() -> str:
    """What `explain` says of it at 100 columns, with rows on `graphed` and LLM.int8() without its waits."""
    rows = summarize(explained_h200())
    return explanation(explain(rows), experiments(rows), 100).plain + "\n"


if __name__ == "__main__":
    (DATA / f"schema-v{SCHEMA_VERSION}.json").write_text(schema_text())
    (DATA / f"records-v{SCHEMA_VERSION}.jsonl").write_text(records_text())
    (DATA / "table-100.txt").write_text(table_text())
    (DATA / "table-quality-140.txt").write_text(quality_table_text())
    (DATA / "quality-120.txt").write_text(quality_text())
    (DATA / "explanation-100.txt").write_text(explanation_text())
