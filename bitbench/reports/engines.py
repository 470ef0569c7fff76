"""Engine beside engine: what the same method reaches under each, where a file holds several."""

from collections.abc import Sequence

from bitbench.reports.section import Section
from bitbench.results import units
from bitbench.results.summary import CellSummary

_ABOUT = (
    "tok/s at the median; in brackets the share of the ceiling, which is what the measured read bandwidth allows for "
    "the bytes of a step. Of several kernels of a method the fastest counts.",
)


def engines_beside(summaries: Sequence[CellSummary]) -> list[Section]:
    """A small table for each model, workload, device and environment that was measured under more than one engine."""
    alike: dict[tuple[object, ...], list[CellSummary]] = {}
    for row in summaries:
        if row.workload:
            model, _, *rest = row.table_key
            alike.setdefault((model, *rest), []).append(row)
    return [_section(rows) for rows in alike.values() if len({row.engine for row in rows if _tokens(row)}) > 1]


def _section(rows: Sequence[CellSummary]) -> Section:
    first = rows[0]
    engines = sorted(
        {row.engine for row in rows}, key=lambda engine: max(_tokens(r) for r in rows if r.engine == engine)
    )
    methods = list(dict.fromkeys(_method(row) for row in rows))
    return Section(
        title=f"Engine beside engine: {first.model_title} on {first.device_name} · {first.workload}",
        head=["method", *engines, "ceiling"],
        rows=[_line(method, engines, [row for row in rows if _method(row) == method]) for method in methods],
        below=_ABOUT,
    )


def _line(method: str, engines: Sequence[str], rows: Sequence[CellSummary]) -> list[str]:
    best = {row.engine: row for row in sorted(rows, key=_tokens)}
    ceilings = [row.ceiling_tokens_per_s for row in rows if row.ceiling_tokens_per_s]
    return [method, *(_cell(best.get(engine)) for engine in engines), units.significant(max(ceilings, default=None))]


def _cell(row: CellSummary | None) -> str:
    if row is None:
        return ""
    if row.decode_tokens_per_s is None:
        return row.status
    return f"{units.significant(row.decode_tokens_per_s)} ({units.percent(row.mbu)} %)"


def _method(row: CellSummary) -> str:
    """Without the kernel that was asked for."""
    return row.method.partition(":")[0]


def _tokens(row: CellSummary) -> float:
    return row.decode_tokens_per_s or 0.0
