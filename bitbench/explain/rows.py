"""Everything that is known of why each row is as fast as it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from bitbench.explain.account import Account, Item, account, gap_to_ceiling
from bitbench.explain.counterfactual import Counterfactual, without_host
from bitbench.explain.step import Step, step_of
from bitbench.explain.verdict import Verdict, judge
from bitbench.results.summary import CellSummary

VERDICTS = {
    "verdict": "what sets the speed of decoding, one of the words below; null where that is not known",
    "prefill_verdict": "the same for the prefill, whose time is TTFT",
}
"""Keys of a JSON row that this package adds to LABELS and METRICS, with their meaning."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A row with what explains it; what is not known is None or empty."""

    row: CellSummary
    step: Step | None
    decode: Verdict | None
    prefill: Verdict | None
    without_host: tuple[Counterfactual, ...]
    account: Account | None
    gap: tuple[Item, ...]


def explain(rows: Sequence[CellSummary]) -> list[Explained]:
    """Each row in the light of all of them, in their order."""
    return [
        Explained(
            row=row,
            step=step_of(row, "decode"),
            decode=judge(row, "decode", rows),
            prefill=judge(row, "prefill", rows),
            without_host=without_host(row, rows),
            account=account(row),
            gap=gap_to_ceiling(row),
        )
        for row in rows
    ]


def verdict_kinds(row: CellSummary, rows: Sequence[CellSummary]) -> dict[str, str | None]:
    """The two verdicts of a row by their keys in JSON."""
    decode, prefill = judge(row, "decode", rows), judge(row, "prefill", rows)
    return {"verdict": decode.kind if decode else None, "prefill_verdict": prefill.kind if prefill else None}
