"""Rows for programs: JSON and CSV. SI base units, fractions 0-1, unknown is null; keys are explained in
docs/metrics.md.
"""

import csv
import io
import json
from collections.abc import Sequence

from bitbench.explain.rows import VERDICTS, verdict_kinds
from bitbench.results.metrics import LABELS, METRICS, Value
from bitbench.results.summary import CellSummary

_PAIRS = ("decode_tokens_per_s_interval", "speedup_interval", "kl_mean_ci", "perplexity_ratio_ci")


def rows(summaries: Sequence[CellSummary]) -> list[dict[str, Value]]:
    """One dictionary for each row, all with the same keys."""
    return [
        {m.key: m.value(row) for m in (*LABELS.values(), *METRICS.values())} | verdict_kinds(row, summaries)
        for row in summaries
    ]


def as_json(summaries: Sequence[CellSummary]) -> str:
    """A JSON list of rows."""
    return json.dumps(rows(summaries), indent=2, allow_nan=False)


def as_csv(summaries: Sequence[CellSummary]) -> str:
    """CSV (RFC 4180) with a header; an interval becomes two columns, a list is joined by semicolons."""
    flat = [_flat(row) for row in rows(summaries)]
    names = list(flat[0]) if flat else [name for m in (*LABELS, *METRICS, *VERDICTS) for name in _columns(m)]
    out = io.StringIO()
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _columns(key: str) -> tuple[str, ...]:
    return (f"{key}_low", f"{key}_high") if key in _PAIRS else (key,)


def _flat(row: dict[str, Value]) -> dict[str, Value]:
    flat: dict[str, Value] = {}
    for key, value in row.items():
        if key in _PAIRS:
            pair = value if isinstance(value, list) else [None, None]
            flat.update(zip(_columns(key), pair, strict=True))
        else:
            flat[key] = ";".join(map(str, value)) if isinstance(value, list) else value
    return flat
