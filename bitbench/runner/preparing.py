"""Checkpoints of a run: one worker for each distinct one, whether cells are timed or compared."""

from dataclasses import dataclass, field

from bitbench.facts.messages import BandwidthTask, Checkpoint, Event, Finished, Prepared, PrepareTask, ReferenceTask
from bitbench.facts.models import ModelRef
from bitbench.methods.registry import METHODS
from bitbench.results.record import Cell
from bitbench.runner.listener import Listener
from bitbench.runner.plan import PlannedCell, Request
from bitbench.runner.process import Limits, run_worker

SIXTEEN_BIT = "fp16"
"""The method whose checkpoint is the 16-bit one."""


@dataclass(slots=True)
class Preparing:
    """Makes each checkpoint once and remembers it, or how making it failed."""

    request: Request
    listener: Listener
    _made: dict[str, Checkpoint | Finished] = field(default_factory=dict)

    def checkpoint(self, planned: PlannedCell) -> Checkpoint | Finished:
        """What the cell loads."""
        return self._get(planned.cell)

    def sixteen_bit(self, planned: PlannedCell) -> Checkpoint | Finished:
        """What the cell is compared with."""
        return self._get(planned.cell.model_copy(update={"method": SIXTEEN_BIT, "kernel": None}))

    def _get(self, cell: Cell) -> Checkpoint | Finished:
        key = checkpoint_key(cell)
        if key not in self._made:
            self._made[key] = _fake_checkpoint() if cell.engine == "fake" else self._prepare(cell)
        return self._made[key]

    def _prepare(self, cell: Cell) -> Checkpoint | Finished:
        request = self.request
        self.listener.task_started("prepare", cell, 0, 0)
        task = PrepareTask(
            model=request.model,
            method=METHODS[cell.method].stored_as,
            device=cell.device,
            quantize=request.quantize,
            allow_pickle=request.allow_pickle,
            trust_remote_code=request.trust_remote_code,
        )
        events, finished = self.collect(task)
        return next((e.checkpoint for e in events if isinstance(e, Prepared)), finished)

    def collect(self, task: PrepareTask | BandwidthTask | ReferenceTask) -> tuple[list[Event], Finished]:
        """Run a task; all it said, and how it ended."""
        events: list[Event] = []

        def keep(event: Event) -> None:
            events.append(event)
            self.listener.heard(event)

        return events, run_worker(task, Limits(self.request.silence_s), keep).finished


def checkpoint_key(cell: Cell) -> str:
    """Cells that share a checkpoint share this: the method's own, or the 16-bit one that others quantize at load."""
    method = METHODS[cell.method]
    checkpoint = method.stored_as if method.has_own_checkpoint else "16bit"
    return f"{cell.engine == 'fake'}/{checkpoint}"


def has_random_weights(model: ModelRef) -> bool:
    """There is no text that such a model could say anything about, so only its numerics can be checked."""
    return model.kind == "shape"


def _fake_checkpoint() -> Checkpoint:
    return Checkpoint(path="", content_hash="fake", origin="nothing to load: scripted", title="scripted model")
