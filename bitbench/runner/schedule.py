"""Which process comes next, and when to stop: rounds over the cells, A1 B1 C1 A2 B2 C2 ..., never two at once."""

import math
import statistics
from dataclasses import dataclass, field

from bitbench.results.pool import clean_samples, throttled_throughout, tpots
from bitbench.results.record import Record
from bitbench.results.stats import dominant_spread, interval, relative_half_width
from bitbench.runner.plan import PlannedCell, Request

# After a second failure a cell is left alone; after a first one too, if nothing of it has worked yet.
_FAILURES_ALLOWED = 1
# Processes that were throttled throughout carry no clean speed: so many are made up for by others.
_THROTTLED_REPLACED = 2


@dataclass(slots=True)
class CellState:
    """What is known of a cell while a run goes on."""

    planned: PlannedCell
    prompts_per_process: int
    records: list[Record] = field(default_factory=list)
    ended_by: str | None = None

    @property
    def ok_records(self) -> list[Record]:
        """Records that carry a speed."""
        return [r for r in self.records if r.status == "ok"]

    @property
    def next_index(self) -> int:
        """The number of the next process."""
        return len(self.records)

    @property
    def expected_s(self) -> float:
        """How long the next process will take, judged by the last one, whose gate is passed once; 0 where unknown."""
        last = self.records[-1] if self.records else None
        return max(0.0, (last.process_s or 0.0) - (last.gate_s or 0.0)) if last else 0.0

    def reached_precision(self) -> float | None:
        """Relative half width of the interval between processes; None before two processes."""
        medians = [m for m in (process_median(r) for r in self.ok_records) if m is not None]
        between = interval(medians)
        return relative_half_width(between) if between else None

    def next_prompts(self, num_prompts: int) -> tuple[int, ...]:
        """Prompt indices of the next process: the prompts are dealt out one process after another, and around again."""
        first = self.next_index * self.prompts_per_process
        return tuple((first + i) % num_prompts for i in range(self.prompts_per_process))


def process_median(record: Record) -> float | None:
    """Median TPOT of one process, seconds."""
    times = tpots(clean_samples(record))
    return statistics.median(times) if times else None


def first_state(planned: PlannedCell, request: Request) -> CellState:
    """Spread the workload's prompts over the processes."""
    return CellState(planned, max(1, math.ceil(request.workload.num_prompts / request.first_processes)))


def judge(state: CellState, request: Request) -> None:
    """Decide after a process whether the cell goes on, and with how many prompts. Sets `ended_by` when it does not."""
    failures = len(state.records) - len(state.ok_records)
    if failures > (_FAILURES_ALLOWED if state.ok_records else 0):
        state.ended_by = "failure"
        return
    throttled = sum(throttled_throughout(r) for r in state.ok_records)
    done = len(state.ok_records) - min(throttled, _THROTTLED_REPLACED)
    if done < request.first_processes:
        return
    reached = state.reached_precision()
    if reached is not None and reached <= request.precision:
        state.ended_by = "precision"
    elif done >= request.most_processes:
        state.ended_by = "processes"
    elif dominant_spread([tpots(clean_samples(r)) for r in state.ok_records]) == "within":
        state.prompts_per_process = min(2 * state.prompts_per_process, request.workload.num_prompts)
