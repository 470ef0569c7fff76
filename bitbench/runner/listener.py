"""What a run tells while it works; the command line shows it."""

from typing import Protocol

from bitbench.facts.messages import Event
from bitbench.facts.samples import Bandwidth
from bitbench.results.record import Cell, Ending, QualityRecord, Record


class Listener(Protocol):
    """Hears of each step of a run. No method may block."""

    def task_started(self, what: str, cell: Cell | None, process_index: int, num_left: int) -> None:
        """A worker begins: what it does, and how many processes are left after it, as far as is known."""

    def heard(self, event: Event) -> None:
        """The worker said something."""

    def bandwidth(self, rows: tuple[Bandwidth, ...], ceilings: dict[Cell, float]) -> None:
        """Read bandwidth is measured; the ceiling of each cell follows, tokens/s, before anything is timed."""

    def recorded(self, record: Record) -> None:
        """A worker ended and its record is on disk."""

    def compared(self, record: QualityRecord) -> None:
        """A cell was compared with the 16-bit model, or could not be, and its record is on disk."""

    def ended(self, ending: Ending) -> None:
        """No further process of this cell will run."""


class Silent:
    """Hears nothing."""

    def task_started(self, what: str, cell: Cell | None, process_index: int, num_left: int) -> None:
        """Ignore."""

    def heard(self, event: Event) -> None:
        """Ignore."""

    def bandwidth(self, rows: tuple[Bandwidth, ...], ceilings: dict[Cell, float]) -> None:
        """Ignore."""

    def recorded(self, record: Record) -> None:
        """Ignore."""

    def compared(self, record: QualityRecord) -> None:
        """Ignore."""

    def ended(self, ending: Ending) -> None:
        """Ignore."""
