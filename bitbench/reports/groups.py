"""One group for each table: rows of one model, engine, workload, device, batch size and environment."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bitbench.results import units
from bitbench.results.summary import CellSummary, TableKey


@dataclass(frozen=True)
class Group:
    """Rows that may be compared, with the label of each: its method, and its checkpoint where two rows share a
    method.
    """

    rows: tuple[CellSummary, ...]
    labels: tuple[str, ...]

    @property
    def baseline(self) -> CellSummary | None:
        """The fastest 16-bit row, where one was measured."""
        return next((row for row in self.rows if row.is_baseline), None)

    def label(self, row: CellSummary) -> str:
        """How `row` is called in this table."""
        return self.labels[next(i for i, r in enumerate(self.rows) if r is row)]


def groups(summaries: Sequence[CellSummary]) -> list[Group]:
    """In the order of first appearance."""
    tables: dict[TableKey, list[CellSummary]] = {}
    for row in summaries:
        tables.setdefault(row.table_key, []).append(row)
    return [Group(tuple(rows), _labels(rows)) for rows in tables.values()]


def _labels(rows: Sequence[CellSummary]) -> tuple[str, ...]:
    times = Counter(row.method for row in rows)
    return tuple(r.method if times[r.method] == 1 else f"{r.method}@{r.checkpoint_hash[:6] or 'none'}" for r in rows)


def headings(group: Group) -> list[str]:
    """What the table is about: the model, the machine and how it was measured; then the bandwidth and its ceiling."""
    first = group.rows[0]
    versions = first.environment.versions
    engine = " ".join(part for part in (first.engine, versions.get(first.engine)) if part)
    asked = first.workload or "quality; speed was not measured"
    parts = [f"{first.model_title} on {first.device_name}", engine, asked, _processes(group)]
    libraries = [f"{name} {versions[name]}" for name in ("torch",) if name in versions]
    driver = [f"driver {first.environment.gpu.driver}"] if first.environment.gpu and first.device != "cpu" else []
    size = [f"batch {first.batch_size}", f"{first.output_len} new tokens"] if first.workload else []
    what = [*size, *driver, *libraries]
    lines = [" · ".join(p for p in parts if p), " · ".join([*what, f"environment {first.environment.pool_key}"])]
    return lines + _ceiling(group)


def _processes(group: Group) -> str:
    counts = sorted({row.num_processes for row in group.rows if row.num_processes})
    if not counts:
        return ""
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{number} process" if number == "1" else f"{number} processes"


def _ceiling(group: Group) -> list[str]:
    able = [
        row for row in (group.baseline, *group.rows) if row and row.ceiling_tokens_per_s and row.bandwidth_bytes_per_s
    ]
    if not able:
        return []
    row = able[0]
    most, read = units.significant(row.ceiling_tokens_per_s), units.bandwidth(row.bandwidth_bytes_per_s or 0.0)
    step = units.memory(row.bytes_per_step)
    return [
        f"read bandwidth {read} (measured), so at most {most} tok/s in {group.label(row)}, which reads {step} a step"
    ]
