"""A part of a report."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """A small table with lines under it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    below: Sequence[str] = ()
