"""What a cell's quality is, beside the 16-bit reference's: both read the same tokens.

The decode path reads token by token through the engine and kernels that are timed; the prefill path reads a whole
window in one forward pass, which for some methods runs other kernels. Peak memory above the models: the logits of the
windows read together, of both (two of 512 x 152k in 16 bit: 0.62 GB), or the float32 ones of 32 forced tokens, and
chunks of 0.2 GB.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from statistics import fmean
from typing import Any

from bitbench.engines.base import LoadedModel
from bitbench.facts.messages import Progress
from bitbench.facts.quality import LEAST_CONTEXT_NATS, GreedyContinuation, Quality, QualityPass, rounded
from bitbench.facts.readings import Reading
from bitbench.measure.divergence import ContextFree, Divergence, divergence
from bitbench.measure.gaps import IncorrectOutput
from bitbench.measure.readings import CONTINUATIONS
from bitbench.measure.reference import Reference, read_together

# A cell is broken whose mean KL is no less than this share of what ignoring the context altogether would cost: a model
# that has lost half of what the text says about its next token. Our own rule; methods in use lie far below it (the
# worst one measured, AWQ with a toy calibration: 0.6 nats of some 4).
BROKEN_SHARE = 0.5

Report = Callable[[Progress], None]


def compare(reference: Reference, cell: LoadedModel, report: Report, tokens_at_once: int = 0) -> Quality:
    """A pass for each of the reference's readings. Windows are read together, up to `tokens_at_once`; one by one for 0.

    Raises IncorrectOutput where the cell's logits are not finite or of another shape, OutOfMemory, Unsupported.
    """
    vocab = reference.readings.vocab_size
    if vocab != cell.vocab_size():
        raise IncorrectOutput(f"{cell.vocab_size()} logits a token, the reference has {vocab}")
    told = _Told(report, reference.readings.num_positions)
    passes: list[QualityPass] = []
    parted: tuple[GreedyContinuation, ...] = ()
    for number, reading in enumerate(reference.readings.readings):
        if reading.path == "prefill":
            found = _prefill(reference, number, cell, told, tokens_at_once)
        else:
            found, chosen = _decode(reference, number, cell, told)
            parted = chosen if reading.corpus == CONTINUATIONS else parted
        passes.append(found.facts(reference.storage_kl_nats(number)))
    return Quality(passes=tuple(passes), continuations=parted)


def _decode(
    reference: Reference, number: int, cell: LoadedModel, told: "_Told"
) -> tuple["_Pass", tuple[GreedyContinuation, ...]]:
    """The cell reads each text token by token, the longest first: some engines keep a cache for the longest so far.

    Also how many of the scored tokens, from the first, the cell would have chosen itself.
    """
    reading = reference.readings.readings[number]
    found, parted = _Pass(reading, reference.readings.reference_dtype), {}
    for index in sorted(range(len(reading.texts)), key=lambda i: -len(reading.texts[i].ids)):
        text = reading.texts[index]
        expected = reference.logits(number, index)
        given = cell.forced_logits(text.prompt, text.scored)
        _check_shape(given, expected)
        chosen = given.argmax(-1).tolist()
        same = next((i for i, t in enumerate(text.scored) if chosen[i] != t), len(text.scored))
        parted[index] = GreedyContinuation(prompt_index=index, num_identical=same, length=len(text.scored))
        found.add(expected[1:], given[1:], text.scored[1:], text.document)  # the first is prefill's
        told.read("token by token through the engine", len(text.scored) - 1)
    return found, tuple(parted[index] for index in sorted(parted))


def _prefill(reference: Reference, number: int, cell: LoadedModel, told: "_Told", tokens_at_once: int) -> "_Pass":
    """The cell reads whole windows."""
    reading = reference.readings.readings[number]
    found = _Pass(reading, reference.readings.reference_dtype)
    several = max(1, tokens_at_once // reading.longest)

    def read(first: int) -> None:  # its logits are let go before the next are made
        texts = reading.texts[first : first + several]
        if tokens_at_once:
            expected = reference.together(number, range(first, first + len(texts)))
            given = read_together(cell, texts, reading.longest)
        else:
            expected = [reference.logits(number, first)]
            given = [cell.logits(texts[0].ids, len(texts[0].scored))]
        for text, theirs, ours in zip(texts, expected, given, strict=True):
            _check_shape(ours, theirs)
            found.add(theirs, ours, text.scored, text.document)
            told.read("whole windows", len(text.scored))

    for first in range(0, len(reading.texts), several):
        read(first)
    return found


def check_broken(quality: Quality) -> None:
    """The quality gate, for models that gain something from their context (`LEAST_CONTEXT_NATS`).

    Raises IncorrectOutput for a pass whose mean KL reaches `BROKEN_SHARE` of what ignoring the context would cost.
    """
    for one in quality.passes:
        mean, lost = fmean(one.kl_nats), one.context_free_kl_nats
        if lost >= LEAST_CONTEXT_NATS and mean >= BROKEN_SHARE * lost:
            raise IncorrectOutput(
                f"the output is broken: on {one.corpus} ({one.path}) mean KL to the 16-bit model is {mean:.2g} nats, "
                f"and a model that ignores its context would have {lost:.2g} ({BROKEN_SHARE:.0%} of it is too much)"
            )


class _Told:
    """Tells how many positions are done."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def read(self, detail: str, num_positions: int) -> None:
        self._done += num_positions
        self._report(Progress(stage="quality", detail=detail, done=self._done, total=self._total))


class _Pass:
    """Gathers a pass, in any order of documents."""

    def __init__(self, reading: Reading, reference_dtype: str) -> None:
        self._reading, self._dtype = reading, reference_dtype
        self._context_free = ContextFree()
        self._found: dict[int, Divergence] = {}

    def add(self, expected: Any, given: Any, next_ids: Sequence[int], document: int) -> None:
        of = self._found.setdefault(document, Divergence())
        of.extend(divergence(expected, given, next_ids, self._context_free))

    def facts(self, storage_kl_nats: float) -> QualityPass:
        """What is kept. Raises IncorrectOutput for what is not finite."""
        reading, found = self._reading, Divergence()
        documents = [self._found[document] for document in sorted(self._found)]
        for document in documents:
            found.extend(document)
        try:
            return QualityPass(
                **reading.model_dump(exclude={"texts"}),
                reference_dtype=self._dtype,
                context_free_kl_nats=self._context_free.kl_nats(),
                storage_kl_nats=storage_kl_nats,
                document_ends=tuple(accumulate(len(document.kl_nats) for document in documents)),
                kl_nats=rounded(found.kl_nats),
                top1_agrees="".join("01"[agrees] for agrees in found.top1_agrees),
                top5_overlap="".join(map(str, found.top5_overlap)),
                nll_reference_nats=rounded(found.nll_reference_nats),
                nll_quantized_nats=rounded(found.nll_quantized_nats),
            )
        except ValueError as error:
            raise IncorrectOutput(f"the logits on {reading.corpus} ({reading.path}) are not all finite") from error


def _check_shape(given: Any, expected: Any) -> None:
    if given.shape != expected.shape:
        raise IncorrectOutput(f"logits of {tuple(given.shape)}, not {tuple(expected.shape)}")
