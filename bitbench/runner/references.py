"""What cells are compared with: the 16-bit model beside them, or its logits on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bitbench.facts.messages import Checkpoint, Finished, ReferenceStored, ReferenceTask
from bitbench.facts.nvml import open_device
from bitbench.methods.checkpoint import plan as plan_checkpoint
from bitbench.runner.plan import PlannedCell
from bitbench.runner.preparing import SIXTEEN_BIT, Preparing, has_random_weights

DEFAULT_DISK_BYTES = 2 * 10**9
"""For stored logits: 6,500 positions of a vocabulary of 152k."""

# The comparison itself (1 GB at most), libraries' workspace and some air.
_ROOM_BYTES = 2 * 10**9
# On a CPU the reference computes in float32: twice what its 16-bit file takes.
_CPU_GROWTH = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """How `bitbench quality` compares. `text`: a file, None for the committed text. `num_positions` of whole windows,
    None for the device's default. `store`: on disk even where both models fit in memory.
    """

    text: Path | None = None
    num_positions: int | None = None
    disk_bytes: int = DEFAULT_DISK_BYTES
    store: bool = False


def for_gate(preparing: Preparing, planned: PlannedCell) -> tuple[str | None, str]:
    """The folder with what the quality gate compares with, stored now if it was not; or None and why.

    It never downloads what the run does not need anyway.
    """
    request, cell = preparing.request, planned.cell
    if cell.device == "fake" or has_random_weights(request.model):
        return None, ""
    foreseen = plan_checkpoint(request.model, SIXTEEN_BIT, cell.device)
    if not foreseen.cached and foreseen.download_bytes != 0:
        return None, f"no quality gate: the 16-bit model is not here ({foreseen.work})"
    checkpoint = preparing.sixteen_bit(planned)
    if isinstance(checkpoint, Finished):
        return None, f"no quality gate: {checkpoint.reason}"
    found = stored(preparing, planned, checkpoint, None)
    if isinstance(found, Finished):
        return None, f"no quality gate: the 16-bit model could not be asked ({found.status}: {found.reason})"
    return found, ""


def stored(
    preparing: Preparing, planned: PlannedCell, checkpoint: Checkpoint, how: Comparison | None
) -> str | Finished:
    """The folder with the logits of the 16-bit `checkpoint`; without `how` those that the gate needs."""
    preparing.listener.task_started("reference", planned.cell, 0, 0)
    asked = how or Comparison()
    task = ReferenceTask(
        checkpoint=checkpoint,
        device=planned.cell.device,
        budget_bytes=asked.disk_bytes,
        for_gate=how is None,
        text=str(asked.text.resolve()) if asked.text else None,
        num_positions=asked.num_positions,
        trust_remote_code=preparing.request.trust_remote_code,
    )
    events, finished = preparing.collect(task)
    return next((e.folder for e in events if isinstance(e, ReferenceStored)), finished)


def fit_beside(reference: Checkpoint, cells: Sequence[Checkpoint], device: str) -> bool:
    """Whether the 16-bit model and the largest of the cells fit in the device's free memory together.

    By the sizes of their files; what a method makes of a 16-bit file at load is smaller than that.
    """
    free = _free_bytes(device)
    if free is None:
        return True
    beside = _size(reference) * (_CPU_GROWTH if device == "cpu" else 1)
    return beside + max(map(_size, cells), default=0) + _ROOM_BYTES < free


def _size(checkpoint: Checkpoint) -> int:
    folder = Path(checkpoint.path)
    return sum(f.stat().st_size for f in (*folder.glob("*.safetensors"), *folder.glob("*.bin")))


def _free_bytes(device: str) -> int | None:
    if device == "fake":
        return None
    if device == "cpu":
        return int(psutil.virtual_memory().available)
    found = open_device(device)
    memory = found.ask("MemoryInfo") if found else None
    return int(memory.free) if memory else None
