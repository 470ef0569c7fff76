"""The 16-bit reference's side of a comparison: asked while the cell is compared, or stored before it is loaded.

Stored logits are full, 16 bit, and memory-mapped: `logits.bin` holds [rows][vocab] of all readings one after another,
`readings.json` what was read. A reference that computes in 16 bit is stored as it is. One in float32 is stored in
float16, less each position's greatest logit, which changes no probability and leaves the likely tokens the finest
steps; what the rounding does is measured on every position (`storage_kl_nats`). Shapes: N positions, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from bitbench.engines.base import LoadedModel
from bitbench.facts.frozen import Frozen
from bitbench.facts.messages import Progress
from bitbench.facts.readings import Readings, ReadText, filled
from bitbench.measure.divergence import divergence

_LOGITS, _READINGS = "logits.bin", "readings.json"
# The least finite number of float16; a logit so far below the greatest has no probability in float64 either.
_LEAST = -65504.0
_STORED_AS = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float16"}


class Reference(Protocol):
    """Answers for every text of its readings."""

    readings: Readings

    def logits(self, reading: int, text: int) -> Any:
        """[len(scored)][vocab], from which each scored token would be chosen, all read at once. Raises OutOfMemory."""

    def together(self, reading: int, texts: Sequence[int]) -> Sequence[Any]:
        """The same of several texts of a reading, read at once where they are not stored."""

    def storage_kl_nats(self, reading: int) -> float:
        """Mean KL over the reading's positions that storing has cost; 0 where nothing was."""


class LiveReference:
    """A loaded model."""

    def __init__(self, model: LoadedModel, readings: Readings) -> None:
        self.readings, self._model = readings, model

    def logits(self, reading: int, text: int) -> Any:
        """By its own forward."""
        of = self.readings.readings[reading].texts[text]
        return self._model.logits(of.ids, len(of.scored))

    def together(self, reading: int, texts: Sequence[int]) -> Sequence[Any]:
        """By its own forward."""
        of = self.readings.readings[reading]
        return read_together(self._model, [of.texts[text] for text in texts], of.longest)

    def storage_kl_nats(self, reading: int) -> float:
        """Nothing is stored."""
        return 0.0


def read_together(model: LoadedModel, texts: Sequence[ReadText], length: int) -> list[Any]:
    """The logits from which each scored token would be chosen, [len(scored)][vocab] for each text, by one forward.

    Texts are filled up to `length`, so that no library plans for another (cuDNN's attention takes some 36 ms for each
    new one, docs/log.md).
    """
    logits_BLV = model.batch_logits([filled(text.ids, length) for text in texts])
    rows = [slice(len(text.ids) - 1 - len(text.scored), len(text.ids) - 1) for text in texts]
    return [logits_LV[of] for logits_LV, of in zip(logits_BLV, rows, strict=True)]


class _Index(Frozen):
    """`readings.json`: `stored_dtype` is that of logits.bin; `storage_kl_nats` holds a mean for each reading."""

    readings: Readings
    stored_dtype: str
    storage_kl_nats: tuple[float, ...]


def store(reference: LiveReference, folder: Path, report: Callable[[Progress], None]) -> None:
    """Write the logits of all readings into `folder`. Raises OSError where the disk is full."""
    import torch

    dtype_name = _STORED_AS[reference.readings.reference_dtype]
    dtype, kls = getattr(torch, dtype_name), []
    total, done = reference.readings.num_positions, 0
    with open(folder / _LOGITS, "wb") as file:
        for number, reading in enumerate(reference.readings.readings):
            lost: list[float] = []
            for index, text in enumerate(reading.texts):
                given_NV = reference.logits(number, index)
                kept_NV = given_NV
                if given_NV.dtype != dtype:
                    below_NV = given_NV.float() - given_NV.float().amax(1, keepdim=True)
                    kept_NV = below_NV.clamp(min=_LEAST).to(dtype)
                    lost += divergence(given_NV, kept_NV, text.scored).kl_nats
                file.write(memoryview(kept_NV.contiguous().cpu().view(torch.int16).numpy()).cast("B"))
                done += len(text.scored)
                report(Progress(stage="quality", detail="the reference's logits", done=min(done, total), total=total))
            kls.append(math.fsum(lost) / len(lost) if lost else 0.0)
    kept = _Index(readings=reference.readings, stored_dtype=dtype_name, storage_kl_nats=tuple(kls))
    (folder / _READINGS).write_text(kept.model_dump_json(), encoding="utf-8")


class StoredReference:
    """Reads what `store` wrote; a text's logits come to `device` when they are asked for."""

    def __init__(self, folder: Path, device: str) -> None:
        import torch

        self._index = _Index.model_validate_json((folder / _READINGS).read_text(encoding="utf-8"))
        self.readings, self._device = self._index.readings, "cpu" if device == "fake" else device
        rows, vocab = sum(r.num_rows for r in self.readings.readings), self.readings.vocab_size
        mapped = torch.from_file(str(folder / _LOGITS), shared=False, size=rows * vocab, dtype=torch.int16)
        self._logits_NV = mapped.view(getattr(torch, self._index.stored_dtype)).view(rows, vocab)
        self._starts = _starts(self.readings)

    def logits(self, reading: int, text: int) -> Any:
        """As stored."""
        first = self._starts[reading][text]
        num = len(self.readings.readings[reading].texts[text].scored)
        return self._logits_NV[first : first + num].to(self._device)

    def together(self, reading: int, texts: Sequence[int]) -> Sequence[Any]:
        """As stored."""
        return [self.logits(reading, text) for text in texts]

    def storage_kl_nats(self, reading: int) -> float:
        """Measured when it was stored."""
        return self._index.storage_kl_nats[reading]


def _starts(readings: Readings) -> list[list[int]]:
    """The first row of every text of every reading."""
    starts, row = [], 0
    for reading in readings.readings:
        of = []
        for text in reading.texts:
            of.append(row)
            row += len(text.scored)
        starts.append(of)
    return starts
