"""Right before fast: what a cell must pass before it is timed.

The numerics gate on any weights (measure/numerics.py), then, where the 16-bit model's logits are stored, the quality
gate on a few of its own answers, read token by token through the engine and kernels that will be timed
(measure/quality.py, `check_broken`).
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bitbench.engines.base import LoadedModel
from bitbench.facts.messages import Progress
from bitbench.facts.quality import Quality
from bitbench.measure import numerics, quality
from bitbench.measure.reference import StoredReference

# Decode steps that the numerics gate compares with one forward over all: enough for a median.
_STEPS = 16
# Of a long prompt only so much is read: what is checked are the layers and the steps.
_MOST_PROMPT = 64


def check(
    model: LoadedModel,
    prompt: Sequence[int],
    *,
    seed: int,
    stored: Path | None,
    device: str,
    report: Callable[[Progress], None],
    batch_size: int = 1,
) -> Quality:
    """Both gates. `prompt` is any; `seed` decides the layers' inputs, of which there are as many at once as sequences
    will be timed, as there are sequences in the steps; `stored` is a folder of `reference.store`.

    Raises IncorrectOutput saying what failed, OutOfMemory, Unsupported.
    """
    report(Progress(stage="check", detail="each layer's kernel against the numbers that are stored"))
    given = list(prompt[: max(1, min(_MOST_PROMPT, model.context_len() - _STEPS))])
    ids = [*given, *model.generate([given] * batch_size, _STEPS, None)[0]]
    checked = numerics.check(model, ids, _STEPS, seed, batch_size)
    found = Quality(passes=())
    if stored is not None:
        found = quality.compare(StoredReference(stored, device), model, report)
        quality.check_broken(found)
    _give_memory_back(device)
    return found.model_copy(update={"numerics": checked})


def _give_memory_back(device: str) -> None:
    """What was freed must not count in the peak of what is measured next; on a GPU only live tensors do."""
    gc.collect()
    if device == "cpu" and sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
        if trim is not None:
            trim(0)
