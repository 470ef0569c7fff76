"""Engine beside engine: what the same method reaches under each, where a file holds several."""

from collections.abc import Callable, Sequence

from bitbench.reports.section import Section
from bitbench.results import units
from bitbench.results.summary import CellSummary

_SPEED = (
    "tok/s at the median; in brackets the share of the ceiling, which is what the measured read bandwidth allows for "
    "the bytes of a step. Of several kernels of a method the fastest counts.",
)
_PAYS = ("Over the fastest 16-bit row of the same engine. What quantization pays depends on what else takes time.",)


def engines_beside(summaries: Sequence[CellSummary]) -> list[Section]:
    """For each model, workload, device and environment that was measured under more than one engine: the speeds, and
    what each method gains.
    """
    alike: dict[tuple[object, ...], list[CellSummary]] = {}
    for row in summaries:
        if row.workload:
            model, _, *rest = row.table_key
            alike.setdefault((model, *rest), []).append(row)
    several = [rows for rows in alike.values() if len({row.engine for row in rows if _tokens(row)}) > 1]
    return [section for rows in several for section in _sections(rows)]


def _sections(rows: Sequence[CellSummary]) -> list[Section]:
    about = f"{rows[0].model_title} on {rows[0].device_name} · {rows[0].workload}"
    fastest = {engine: max(_tokens(r) for r in rows if r.engine == engine) for engine in {r.engine for r in rows}}
    engines = sorted(fastest, key=lambda engine: fastest[engine])
    best = {(_method(row), row.engine): row for row in sorted(rows, key=_tokens)}
    methods = list(dict.fromkeys(_method(row) for row in rows))

    def lines(cell: Callable[[CellSummary], str]) -> list[list[str]]:
        of = [[best.get((method, engine)) for engine in engines] for method in methods]
        return [[m, *(cell(row) if row else "" for row in found)] for m, found in zip(methods, of, strict=True)]

    ceilings = [_ceiling([row for row in rows if _method(row) == method]) for method in methods]
    speeds = [[*line, ceiling] for line, ceiling in zip(lines(_speed), ceilings, strict=True)]
    gains = [line for line in lines(lambda row: units.ratio(row.speedup)) if any(c not in ("", "-") for c in line[1:])]
    return [
        Section(f"Engine beside engine: {about}", ["method", *engines, "ceiling"], speeds, _SPEED),
        Section("What a method gains under each engine", ["method", *engines], gains, _PAYS),
    ]


def _speed(row: CellSummary) -> str:
    if row.decode_tokens_per_s is None:
        return row.status
    return f"{units.significant(row.decode_tokens_per_s)} ({units.percent(row.mbu)} %)"


def _ceiling(rows: Sequence[CellSummary]) -> str:
    return units.significant(max((row.ceiling_tokens_per_s or 0.0 for row in rows), default=0.0) or None)


def _method(row: CellSummary) -> str:
    """Without the kernel that was asked for."""
    return row.method.partition(":")[0]


def _tokens(row: CellSummary) -> float:
    return row.decode_tokens_per_s or 0.0
