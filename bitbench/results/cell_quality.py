"""The quality that stands in a row of the table, and which record it comes from.

A record of quality belongs to a row of the same model, method, engine, device, machine, library versions and stored
numbers. Where there are several, the last one counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bitbench.facts.quality import Quality, QualityPass
from bitbench.results import quality_stats as stats
from bitbench.results.pool import Pool
from bitbench.results.quality_stats import Estimate, Identical, KlSummary
from bitbench.results.record import QualityRecord, Subject

_Key = tuple[Subject, str, str]
"""Subject, environment, checkpoint."""


@dataclass(frozen=True)
class CellQuality:
    """Figures of one record. The row's are those of `main`: the decode path, which is what is timed, on the named text;
    without a tokenizer on the reference's own answers.
    """

    record: QualityRecord
    found: Quality

    @cached_property
    def main(self) -> QualityPass:
        """The pass that the row shows."""
        decode = [one for one in self.found.passes if one.path == "decode"]
        return decode[-1]

    @cached_property
    def kl(self) -> KlSummary:
        """Over positions, nats."""
        return stats.kl(self.main)

    @cached_property
    def mean_kl(self) -> Estimate:
        """With its interval over documents."""
        return stats.mean_kl(self.main)

    @cached_property
    def top1_agreement(self) -> Estimate:
        """With its interval over documents."""
        return stats.top1_agreement(self.main)

    @cached_property
    def top5_overlap(self) -> Estimate:
        """With its interval over documents."""
        return stats.top5_overlap(self.main)

    @cached_property
    def perplexity_ratio(self) -> Estimate:
        """With its interval over documents."""
        return stats.perplexity_ratio(self.main)

    @cached_property
    def identical(self) -> Identical | None:
        """Of greedy answers."""
        return stats.identical(self.found.continuations)

    @property
    def near_lossless(self) -> bool:
        """Too little is lost to rank by."""
        return stats.near_lossless(self.main)

    @property
    def text(self) -> str:
        """What was read: `bitbench-quality-1, decode, 320 positions of 20 texts, reference float32`."""
        of = self.main
        return (
            f"{of.corpus}, {of.path}, {of.num_positions} positions of {len(of.documents)} "
            f"{'text' if len(of.documents) == 1 else 'texts'}, "
            f"reference {of.reference_dtype}"
        )


def cell_quality(record: QualityRecord | None) -> CellQuality | None:
    """None where nothing was found."""
    if record is None or record.quality is None or not any(p.path == "decode" for p in record.quality.passes):
        return None
    return CellQuality(record, record.quality)


class Qualities:
    """The records of quality, looked up by what they are about."""

    def __init__(self, records: Sequence[QualityRecord]) -> None:
        self._by_key: dict[_Key, QualityRecord] = {}
        self._used: set[_Key] = set()
        for record in records:
            key = (record.subject, record.environment.pool_key, record.checkpoint_hash)
            # What failed for want of memory or time says nothing against an earlier success.
            if record.status in ("ok", "incorrect") or key not in self._by_key:
                self._by_key[key] = record

    def of(self, pool: Pool) -> QualityRecord | None:
        """The record about this cell; None where there is none, or another kernel ran then.

        A cell may have failed before its checkpoint was known: then any of it will do.
        """
        about = (pool.cell.subject, pool.environment.pool_key)
        fitting = [k for k in self._by_key if k[:2] == about and pool.checkpoint_hash in ("", k[2])]
        if not fitting:
            return None
        key = fitting[-1]
        found = self._by_key[key]
        self._used.add(key)
        kernels = {r.kernel.name for r in pool.ok if r.kernel}
        return None if found.kernel and kernels and kernels != {found.kernel.name} else found

    def unused(self) -> list[QualityRecord]:
        """Those that no pool asked for, in file order."""
        return [record for key, record in self._by_key.items() if key not in self._used]
