"""Does a plan: prepare checkpoints, measure the ceiling, then rounds of worker processes, each recorded as it ends."""

import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from bitbench.facts.messages import (
    BandwidthMeasured,
    BandwidthTask,
    Checkpoint,
    Event,
    Finished,
    Gate,
    MeasureTask,
)
from bitbench.measure.power import PowerWatch
from bitbench.results import store
from bitbench.results.record import Ending, Record, Subject
from bitbench.runner.ceiling import nearest, working_sets
from bitbench.runner.listener import Listener
from bitbench.runner.plan import Plan
from bitbench.runner.preparing import Preparing
from bitbench.runner.process import Limits, run_worker
from bitbench.runner.recording import Heard, Recorder, busy_share
from bitbench.runner.references import for_gate
from bitbench.runner.schedule import CellState, first_state, judge

EndedBy = Literal["precision", "budget", "processes", "failure", "interrupt"]
# A worker that is measuring when the budget ends finishes its prompt; after this it is ended.
_GRACE_S = 60.0
# How long warm-up may wait for samples to agree: a few prompts of the slowest row seen (70 ms a token), or one or two.
_SETTLE_S, _QUICK_SETTLE_S = 20.0, 2.0
# A failure that will come again: not tried again by --resume.
_LASTING = ("unsupported", "out_of_memory", "incorrect", "load_error")


@dataclass(slots=True)
class Run:
    """One run in progress; `out` is the record file. `incorrect`: subjects that are not timed, with the reason."""

    plan: Plan
    out: Path
    listener: Listener
    incorrect: dict[Subject, str] = field(default_factory=dict)
    recorder: Recorder = field(init=False)
    preparing: Preparing = field(init=False)
    states: list[CellState] = field(default_factory=list)
    stored_reference: str | None = None
    gate_note: str = ""
    began_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.recorder = Recorder(uuid.uuid4().hex[:12], self.plan)
        self.preparing = Preparing(self.plan.request, self.listener)

    @property
    def run_id(self) -> str:
        """Joins the records of this run."""
        return self.recorder.run_id

    def execute(self, before: Sequence[Record] = ()) -> None:
        """Do the plan. `before`: records of an earlier run to go on from. Raises KeyboardInterrupt and StoreError."""
        store.check_writable(self.out)
        self.states = [first_state(p, self.plan.request) for p in self.plan.cells]
        for state in self.states:
            self._take_over(state, before)
        try:
            self._refuse_unsupported()
            self._prepare_checkpoints()
            self._measure_bandwidth()
            self._rounds()
        except KeyboardInterrupt:
            for state in self.states:
                state.ended_by = state.ended_by or "interrupt"
            raise
        finally:
            self._write_endings()

    def _take_over(self, state: CellState, before: Sequence[Record]) -> None:
        key = self.plan.environment.pool_key
        for record in before:
            same = record.cell == state.planned.cell and record.environment.pool_key == key
            if same and (record.status == "ok" or record.status in _LASTING):
                state.records.append(record)
        if state.records:
            judge(state, self.plan.request)

    def _open(self) -> list[CellState]:
        return [s for s in self.states if s.ended_by is None]

    def _refuse_unsupported(self) -> None:
        for state in self._open():
            if not state.planned.supported.ok:
                self._fail(state, Finished(status="unsupported", reason=state.planned.supported.reason))
            elif reason := self.incorrect.get(state.planned.cell.subject):
                self._fail(state, Finished(status="incorrect", reason=reason))

    def _fail(self, state: CellState, finished: Finished) -> None:
        self._keep(state, self.recorder.failed(state, finished))
        state.ended_by = "failure"

    def _keep(self, state: CellState, record: Record) -> None:
        store.append(self.out, record)
        state.records.append(record)
        self.listener.recorded(record)

    def _limits(self, until: bool = False) -> Limits:
        budget = self.plan.request.budget_s
        until_s = self.began_s + budget + _GRACE_S if until and budget else None
        return Limits(self.plan.request.silence_s, until_s)

    def _prepare_checkpoints(self) -> None:
        """Checkpoints, and what the gate compares with: done once and cached. The budget's clock starts after it."""
        for state in self._open():
            made = self.preparing.checkpoint(state.planned)
            if isinstance(made, Finished):
                self._fail(state, made)
        ungated = [state for state in self._open() if not _has_passed(state)]
        if ungated:
            self.stored_reference, self.gate_note = for_gate(self.preparing, ungated[0].planned)
        self.began_s = time.monotonic()

    def _measure_bandwidth(self) -> None:
        cells = self._open()
        if not cells:
            return
        sizes = working_sets([s.planned for s in cells])
        device = cells[0].planned.cell.device
        self.listener.task_started("bandwidth", None, 0, 0)
        events, finished = self.preparing.collect(BandwidthTask(device=device, working_set_bytes=sizes))
        measured = next((e for e in events if isinstance(e, BandwidthMeasured)), None)
        rows = measured.bandwidths if measured else ()
        self.recorder.bandwidths = rows
        self.recorder.matmul_flops_per_s = measured.matmul_flops_per_s if measured else None
        if not rows:
            for state in cells:
                self._fail(state, finished)
        ceilings = {
            s.planned.cell: self.plan.request.workload.batch_size * row.bytes_per_s / step
            for s in cells
            if (step := s.planned.forecast.bytes_per_step) and (row := nearest(rows, step))
        }
        self.listener.bandwidth(rows, ceilings)

    def _rounds(self) -> None:
        with PowerWatch(self.plan.cells[0].cell.device) as watch:
            while cells := self._open():
                if not self._affordable(cells):
                    self._skip(cells)
                    return
                for position, state in enumerate(cells):
                    if not self._affordable([state]):
                        self._skip([state])
                        continue
                    self._one_process(state, watch, self._num_left(cells, position), len(cells) - position)

    def _num_left(self, cells: list[CellState], position: int) -> int:
        first = self.plan.request.first_processes
        later = sum(max(0, first - c.next_index - (1 if i <= position else 0)) for i, c in enumerate(cells))
        return max(later, len(cells) - position - 1)

    def _affordable(self, cells: list[CellState]) -> bool:
        """Whether these processes fit in what is left of the budget, judged by each cell's last one."""
        budget = self.plan.request.budget_s
        if budget is None:
            return True
        left = self.began_s + budget - time.monotonic()
        needed = sum(c.expected_s for c in cells)
        return left > needed

    def _skip(self, cells: list[CellState]) -> None:
        for state in cells:
            if not state.records:
                self._keep(
                    state, self.recorder.failed(state, Finished(status="skipped", reason="the budget ended first"))
                )
            state.ended_by = "budget"

    def _deadline_s(self, num_in_round: int) -> float | None:
        """When a process must be done with what it is at: the budget's rest is shared with those still to come in this
        round, so that a slow row does not leave the others without one.
        """
        budget = self.plan.request.budget_s
        if not budget:
            return None
        now, end = time.monotonic(), self.began_s + budget
        return now + max(0.0, end - now) / num_in_round

    def _one_process(self, state: CellState, watch: PowerWatch, num_left: int, num_in_round: int) -> None:
        cell, request = state.planned.cell, self.plan.request
        self.listener.task_started("measure", cell, state.next_index, num_left)
        checkpoint = cast(Checkpoint, self.preparing.checkpoint(state.planned))
        task = MeasureTask(
            checkpoint=checkpoint,
            method=cell.method,
            kernel=cell.kernel,
            engine=cell.engine,
            workload=cell.workload,
            device=cell.device,
            process_index=state.next_index,
            prompt_indices=state.next_prompts(request.workload.num_prompts),
            deadline_s=self._deadline_s(num_in_round),
            settle_s=_QUICK_SETTLE_S if request.quick else _SETTLE_S,
            profile=request.profile and state.next_index == 0,
            gate=self._gate(state),
            trust_remote_code=request.trust_remote_code,
        )
        heard = Heard()
        share = busy_share()
        try:
            outcome = run_worker(task, self._limits(until=True), lambda e: self._hear(heard, e))
        except KeyboardInterrupt:
            self._keep(state, self.recorder.failed(state, Finished(status="interrupted", reason="stopped by the user")))
            raise
        note = self.gate_note if task.gate and not self.stored_reference else ""
        self._keep(state, self.recorder.measured(state, checkpoint, heard, outcome, watch, share(outcome), note))
        judge(state, request)

    def _gate(self, state: CellState) -> Gate | None:
        """Until a process of the cell has passed it; the fake device has no numerics."""
        if _has_passed(state) or state.planned.cell.device == "fake":
            return None
        return Gate(seed=random.SystemRandom().randrange(1 << 31), stored=self.stored_reference)

    def _hear(self, heard: Heard, event: Event) -> None:
        heard.take(event)
        self.listener.heard(event)

    def _write_endings(self) -> None:
        for state in self.states:
            ending = Ending(
                run_id=self.run_id,
                cell=state.planned.cell,
                ended_by=cast(EndedBy, state.ended_by or "interrupt"),
                asked_precision=self.plan.request.precision,
                reached_precision=state.reached_precision(),
                num_processes=len(state.ok_records),
            )
            store.append(self.out, ending)
            self.listener.ended(ending)


def _has_passed(state: CellState) -> bool:
    return any(record.gate is not None for record in state.ok_records)
