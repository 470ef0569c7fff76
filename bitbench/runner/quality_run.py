"""Compares the cells of a plan with the 16-bit model, one worker each, and appends a record for each."""

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitbench.facts.corpora import built_in, own_text
from bitbench.facts.messages import (
    Answered,
    Checkpoint,
    Compared,
    Event,
    Finished,
    HarnessTasks,
    Loaded,
    QualityTask,
    TasksScored,
)
from bitbench.facts.readings import Reading
from bitbench.measure.readings import CONTINUATIONS
from bitbench.results import store
from bitbench.results.record import QualityRecord
from bitbench.runner.listener import Listener
from bitbench.runner.plan import Plan, PlannedCell
from bitbench.runner.preparing import Preparing
from bitbench.runner.process import Limits, Outcome, run_worker
from bitbench.runner.recording import process_fields
from bitbench.runner.references import Comparison, fit_beside, stored


@dataclass(slots=True)
class QualityRun:
    """One run in progress; `out` is the record file. `records` are those of this run."""

    plan: Plan
    out: Path
    listener: Listener
    how: Comparison = field(default_factory=Comparison)
    tasks: HarnessTasks | None = None
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    records: list[QualityRecord] = field(default_factory=list)
    answers: Reading | None = None
    preparing: Preparing = field(init=False)

    def __post_init__(self) -> None:
        self.preparing = Preparing(self.plan.request, self.listener)

    def execute(self, before: Sequence[QualityRecord] = ()) -> None:
        """Compare every cell that `before` holds no good record of. Raises KeyboardInterrupt and StoreError."""
        store.check_writable(self.out)
        cells = self._able()
        if not cells:
            return
        reference = self.preparing.sixteen_bit(cells[0][0])
        if isinstance(reference, Finished):
            for planned, checkpoint in cells:
                self._keep(self._failed(planned, reference, checkpoint))
            return
        read = [r for r in before if _has_read(r, self.how)]
        left = [(p, c) for p, c in cells if not any(_is_of(r, p, c, self.plan) for r in read)]
        folder = self._stored(reference, left)
        if isinstance(folder, Finished):
            for planned, checkpoint in left:
                self._keep(self._failed(planned, folder, checkpoint))
            return
        for number, (planned, checkpoint) in enumerate(left):
            self.listener.task_started("quality", planned.cell, 0, len(left) - number - 1)
            self._compare(planned, checkpoint, reference, folder)

    def _able(self) -> list[tuple[PlannedCell, Checkpoint]]:
        """The cells that can run, with their checkpoints; the others are recorded as what they are."""
        able = []
        for planned in self.plan.cells:
            if not planned.supported.ok:
                self._keep(self._failed(planned, Finished(status="unsupported", reason=planned.supported.reason)))
                continue
            made = self.preparing.checkpoint(planned)
            if isinstance(made, Finished):
                self._keep(self._failed(planned, made))
            else:
                able.append((planned, made))
        return able

    def _stored(self, reference: Checkpoint, cells: Sequence[tuple[PlannedCell, Checkpoint]]) -> str | Finished | None:
        """The folder with the reference's logits where it cannot stand beside every cell; else None.

        All cells alike: a disk's budget shortens the text, and what read unlike texts cannot be compared.
        """
        if not cells:
            return None
        planned = cells[0][0]
        if not self.how.store and fit_beside(reference, [c for _, c in cells], planned.cell.device):
            return None
        return stored(self.preparing, planned, reference, self.how)

    def _compare(self, planned: PlannedCell, checkpoint: Checkpoint, reference: Checkpoint, folder: str | None) -> None:
        cell, request = planned.cell, self.plan.request
        task = QualityTask(
            checkpoint=checkpoint,
            method=cell.method,
            kernel=cell.kernel,
            engine=cell.engine,
            device=cell.device,
            seed=random.SystemRandom().randrange(1 << 31),
            reference=None if folder else reference,
            answers=None if folder else self.answers,
            stored=folder,
            text=str(self.how.text.resolve()) if self.how.text else None,
            num_positions=self.how.num_positions,
            tasks=self.tasks,
            trust_remote_code=request.trust_remote_code,
        )
        heard: dict[str, Any] = {}

        def hear(event: Event) -> None:
            if isinstance(event, Answered):
                self.answers = event.reading
            elif isinstance(event, Loaded | Compared | TasksScored):
                heard[event.kind] = event
            self.listener.heard(event)

        try:
            outcome = run_worker(task, Limits(request.silence_s), hear)
        except KeyboardInterrupt:
            stopped = Finished(status="interrupted", reason="stopped by the user")
            self._keep(self._failed(planned, stopped, checkpoint))
            raise
        record = self._record(planned, checkpoint, outcome, heard)
        held = {"reference_hash": reference.content_hash, "reference_held": "stored" if folder else "beside"}
        self._keep(record.model_copy(update=held))

    def _record(
        self, planned: PlannedCell, checkpoint: Checkpoint, outcome: Outcome, heard: dict[str, Any]
    ) -> QualityRecord:
        loaded: Loaded | None = heard.get("loaded")
        compared: Compared | None = heard.get("compared")
        scored: TasksScored | None = heard.get("tasks")
        fields = self._fields(planned, outcome.finished, checkpoint)
        if loaded:
            fields |= {"dtype": loaded.dtype, "kernel": loaded.kernel, "weights_bytes": loaded.weights_bytes}
        if compared and outcome.finished.status == "ok":
            fields |= {
                "quality": compared.quality,
                "compare_s": compared.wall_s,
                "compare_cpu_s": compared.cpu_s,
                "models_bytes": compared.models_bytes,
                "peak_memory_bytes": compared.peak_bytes,
            }
        return QualityRecord(
            **fields
            | {
                "tasks": scored.scores if scored and outcome.finished.status == "ok" else (),
                "process_s": outcome.wall_s,
            }
        )

    def _failed(self, planned: PlannedCell, finished: Finished, checkpoint: Checkpoint | None = None) -> QualityRecord:
        return QualityRecord(**self._fields(planned, finished, checkpoint))

    def _fields(self, planned: PlannedCell, finished: Finished, checkpoint: Checkpoint | None) -> dict[str, Any]:
        fields = process_fields(self.run_id, self.plan, planned, finished, checkpoint)
        return fields | {"subject": planned.cell.subject}

    def _keep(self, record: QualityRecord) -> None:
        store.append(self.out, record)
        self.records.append(record)
        self.listener.compared(record)


def _has_read(record: QualityRecord, how: Comparison) -> bool:
    """Whether it is about the text that is asked for; models without a tokenizer read none."""
    wanted = (own_text(how.text) if how.text else built_in()).digest
    named = [one for one in (record.quality.passes if record.quality else ()) if one.corpus != CONTINUATIONS]
    return not named or all(one.corpus_hash == wanted for one in named)


def _is_of(record: QualityRecord, planned: PlannedCell, checkpoint: Checkpoint, plan: Plan) -> bool:
    """Whether it is a good record of this very cell, machine and checkpoint."""
    return (
        record.status in ("ok", "incorrect")
        and record.subject == planned.cell.subject
        and record.checkpoint_hash == checkpoint.content_hash
        and record.environment.pool_key == plan.environment.pool_key
    )
