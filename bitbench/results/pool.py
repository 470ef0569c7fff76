"""Which records belong together: those of one cell, one environment and one checkpoint. And which samples of them
count.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitbench.facts.samples import LOOK_PERIOD_S, PromptSample
from bitbench.results.environment import Environment
from bitbench.results.record import Cell, Ending, Record


def measured_samples(record: Record) -> tuple[PromptSample, ...]:
    """The samples of a record that are not warm-ups."""
    return tuple(s for s in record.samples if not s.warmup)


def throttled_samples(record: Record) -> frozenset[int]:
    """Positions in `measured_samples` during which the device was slowed down.

    A sample is throttled where a look inside its window, the last one before it or the next one after it, if that comes
    within a look's period, saw a reason: a short sample may lie between two looks.
    """
    looks = sorted(record.power, key=lambda p: p.at_s)
    times = [p.at_s for p in looks]
    found = set()
    for position, sample in enumerate(measured_samples(record)):
        first = max(bisect_right(times, sample.started_s) - 1, 0)
        last = bisect_right(times, sample.started_s + sample.total_s + LOOK_PERIOD_S)
        last = min(last, bisect_right(times, sample.started_s + sample.total_s) + 1)
        if any(look.throttle_reasons for look in looks[first:last]):
            found.add(position)
    return frozenset(found)


def clean_samples(record: Record) -> tuple[PromptSample, ...]:
    """Measured and not throttled: what medians are taken over."""
    throttled = throttled_samples(record)
    return tuple(s for i, s in enumerate(measured_samples(record)) if i not in throttled)


def throttled_throughout(record: Record) -> bool:
    """Whether a record has measured samples and not one of them is clean."""
    return bool(measured_samples(record)) and not clean_samples(record)


def tpots(samples: Iterable[PromptSample]) -> list[float]:
    """TPOT of each sample that has one, seconds."""
    return [s.tpot_s for s in samples if s.tpot_s is not None]


@dataclass(frozen=True)
class Process:
    """One ok record with the samples of it that count, never none."""

    record: Record
    samples: tuple[PromptSample, ...]

    @property
    def tpots(self) -> list[float]:
        """TPOT of each sample, seconds; empty for a workload of one output token."""
        return tpots(self.samples)


@dataclass(frozen=True)
class Pool:
    """The records of one cell on one environment and checkpoint, in file order."""

    cell: Cell
    environment: Environment
    checkpoint_hash: str
    records: tuple[Record, ...]
    ending: Ending | None = None

    @property
    def ok(self) -> tuple[Record, ...]:
        """The records that ended well."""
        return tuple(r for r in self.records if r.status == "ok")

    def failed(self) -> tuple[Record, ...]:
        """The records that neither ended well nor were merely stopped; those stopped, where nothing else happened."""
        failed = tuple(r for r in self.records if r.status not in ("ok", "interrupted", "skipped"))
        return failed or (() if self.ok else self.records)

    @property
    def num_throttled(self) -> int:
        """Measured samples of ok records during which the device was slowed down."""
        return sum(len(throttled_samples(r)) for r in self.ok)

    def processes(self) -> tuple[Process, ...]:
        """The ok records with their clean samples. Where every sample of the cell was throttled, all count (and are
        flagged): a cell that only ever ran throttled has that speed.
        """
        clean = tuple(Process(r, s) for r in self.ok if (s := clean_samples(r)))
        return clean or tuple(Process(r, s) for r in self.ok if (s := measured_samples(r)))


def pools(records: Sequence[Record], endings: Sequence[Ending]) -> list[Pool]:
    """In the order of first appearance. Different machines, drivers or versions never share a pool."""
    groups: dict[tuple[Cell, str], dict[str, list[Record]]] = {}
    for record in records:
        group = groups.setdefault((record.cell, record.environment.pool_key), {})
        group.setdefault(record.checkpoint_hash, []).append(record)
    return [
        Pool(cell, found[0].environment, checkpoint, tuple(found), _ending(cell, found, endings))
        for (cell, _), group in groups.items()
        for checkpoint, found in _without_unknown(group).items()
    ]


def _without_unknown(group: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """A process may fail before its checkpoint is known: where the cell has just one, the failure is that one's."""
    known = [checkpoint for checkpoint in group if checkpoint]
    if len(known) != 1 or "" not in group:
        return group
    order = {id(r): i for i, r in enumerate(r for found in group.values() for r in found)}
    joined = sorted(group[known[0]] + group[""], key=lambda r: (r.created_at, order[id(r)]))
    return {known[0]: joined}


def _ending(cell: Cell, found: Sequence[Record], endings: Sequence[Ending]) -> Ending | None:
    runs = {r.run_id for r in found}
    ours = [e for e in endings if e.cell == cell and e.run_id in runs]
    return ours[-1] if ours else None
