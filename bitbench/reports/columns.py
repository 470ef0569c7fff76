"""The columns of the table for people: header, cell, and how dear each is when the terminal is narrow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitbench.reports.groups import Group
from bitbench.results import units
from bitbench.results.summary import CellSummary

MAX_BASELINE_IN_HEADER = 8


@dataclass(frozen=True, slots=True)
class Column:
    """`key` is the metric's; `head` are two lines; the least `worth` goes first where the width is too small."""

    key: str
    head: tuple[str, str]
    cell: Callable[[CellSummary], str]
    worth: int

    def is_empty(self, rows: Sequence[CellSummary]) -> bool:
        """No row knows it."""
        return all(self.cell(row) == units.UNKNOWN for row in rows if row.status == "ok")


def columns(group: Group) -> list[Column]:
    """Those that some row fills, in the order of the table, without the method's own."""
    kinds = {row.decode_tokens_per_s_interval.kind for row in group.rows if row.decode_tokens_per_s_interval}
    ranged = {"t95": ("95%", "interval"), "range": ("", "range")}
    interval_head = ranged[min(kinds)] if len(kinds) == 1 else ("interval", "r: range")
    label = group.label(group.baseline) if group.baseline else "16-bit"
    against = label if len(label) <= MAX_BASELINE_IN_HEADER else "16-bit"
    every = [
        Column("decode_tokens_per_s", ("", "tok/s"), lambda s: units.significant(s.decode_tokens_per_s), 9),
        Column("decode_tokens_per_s_interval", interval_head, _interval_cell(len(kinds) > 1), 8),
        Column("speedup", ("vs", against), lambda s: units.ratio(s.speedup), 8),
        Column("weights_bytes", ("weights", "GB"), lambda s: units.gigabytes(s.weights_bytes), 7),
        Column("memory_saved", ("saved", "%"), _saved, 7),
        Column("peak_memory_bytes", ("peak", "GB"), lambda s: units.gigabytes(s.peak_memory_bytes), 6),
        Column("ttft_s", ("TTFT", "ms"), lambda s: units.milliseconds(s.ttft_s), 5),
        Column("tpot_s", ("TPOT", "ms"), lambda s: units.milliseconds(s.tpot_s), 3),
        Column("ceiling_tokens_per_s", ("ceiling", "tok/s"), lambda s: units.significant(s.ceiling_tokens_per_s), 2),
        Column("mbu", ("of ceil-", "ing, %"), lambda s: units.percent(s.mbu), 6),
        Column("energy_j_per_token", ("J per", "token"), lambda s: units.significant(s.energy_j_per_token), 4),
        Column("kl_mean", ("KL", "nats"), _kl, 8),
        Column("top1_agreement", ("top-1", "%"), _top1, 6),
        Column("perplexity_ratio", ("perple-", "xity"), _perplexity, 5),
        Column("pareto", ("Pa-", "reto"), lambda s: units.UNKNOWN if s.pareto is None else " *"[s.pareto], 8),
    ]
    return [column for column in every if not column.is_empty(group.rows)]


def _interval_cell(mixed: bool) -> Callable[[CellSummary], str]:
    def cell(summary: CellSummary) -> str:
        interval = summary.decode_tokens_per_s_interval
        if interval is None:
            return units.UNKNOWN
        mark = " r" if mixed and interval.kind == "range" else ""
        return units.span(interval.low, interval.high) + mark

    return cell


def _kl(summary: CellSummary) -> str:
    return units.kl(summary.quality.kl.mean) if summary.quality else units.UNKNOWN


def _top1(summary: CellSummary) -> str:
    return units.share(summary.quality.top1_agreement.value) if summary.quality else units.UNKNOWN


def _perplexity(summary: CellSummary) -> str:
    return f"{summary.quality.perplexity_ratio.value:.3f}x" if summary.quality else units.UNKNOWN


def _saved(summary: CellSummary) -> str:
    # A 16-bit row saves nothing: a dash reads better than 0.
    return units.UNKNOWN if summary.is_baseline else units.percent(summary.memory_saved)
