"""What a cell's quality is, beside the 16-bit reference's: both are loaded, both read the same tokens.

The decode path reads token by token through the engine and kernels that are timed; the prefill path reads a whole
window in one forward pass, which for some methods runs other kernels. Peak memory above the two models: the 16-bit
logits of one window of both (512 x 152k: 0.31 GB), or the float32 ones of 32 forced tokens, and chunks of 0.4 GB.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean
from typing import Any

from bitbench.engines.base import LoadedModel
from bitbench.facts.corpora import Corpus, windows
from bitbench.facts.messages import Progress
from bitbench.facts.quality import GreedyContinuation, PathName, Quality, QualityPass, rounded
from bitbench.facts.workloads import Workload, starting_prompts
from bitbench.measure.divergence import ContextFree, Divergence, divergence
from bitbench.measure.gaps import IncorrectOutput

CONTINUATIONS = "continuations"
"""The corpus that the reference writes itself: its greedy answers to the protocol's prompts."""

# A cell is broken whose mean KL is no less than this share of what ignoring the context altogether would cost: a model
# that has lost half of what the text says about its next token. Our own rule; methods in use lie far below it (the
# worst one measured, AWQ with a toy calibration: 0.6 nats of some 4).
BROKEN_SHARE = 0.5

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is read. Decode path: `num_prompts` continuations of `answer_len` tokens, and `forced_len` tokens of
    `num_beginnings` documents after their first `beginning_len`. Prefill path: `num_positions` in `window`s by
    `stride`.
    """

    window: int
    stride: int
    num_positions: int
    num_prompts: int = 8
    answer_len: int = 25
    num_beginnings: int = 20
    beginning_len: int = 32
    forced_len: int = 17

    @property
    def num_forced(self) -> int:
        """Positions of the decode path: a forced text's first token is decided by prefill and not counted."""
        return self.num_prompts * (self.answer_len - 1) + self.num_beginnings * (self.forced_len - 1)


# 512 decode positions, many short texts rather than a few long ones: texts are the blocks of the interval. On the demo
# the slowest method, LLM.int8(), takes 81 s on two cores (docs/log.md, 2026-11-24).
CPU_AMOUNT = Amount(window=256, stride=256, num_positions=2_560)
GPU_AMOUNT = Amount(window=512, stride=512, num_positions=50_000)


def amount(device: str) -> Amount:
    """The default on this device."""
    return CPU_AMOUNT if device == "cpu" else GPU_AMOUNT


@dataclass(frozen=True, slots=True)
class Text:
    """A corpus in the reference's tokens."""

    name: str
    digest: str
    tokenizer: str = "none"
    bos_id: int | None = None
    documents: tuple[list[int], ...] = ()


@dataclass(frozen=True, slots=True)
class Forced:
    """A text for the decode path: `forced` is given token by token after `prompt`."""

    prompt: list[int]
    forced: list[int]


def measure(reference: LoadedModel, cell: LoadedModel, corpus: Corpus | None, size: Amount, report: Report) -> Quality:
    """All passes. Without a corpus or a tokenizer only the decode path over the reference's own continuations.

    Raises IncorrectOutput where the cell's logits are not finite or of another shape, OutOfMemory, Unsupported.
    """
    if reference.vocab_size() != cell.vocab_size():
        raise IncorrectOutput(f"{cell.vocab_size()} logits a token, the reference has {reference.vocab_size()}")
    text = tokenized(reference, corpus) if corpus else None
    told = _Told(report, size.num_forced + size.num_positions)
    answers = continuations(reference, size, report)
    own = Text(CONTINUATIONS, _digest(answers), text.tokenizer if text else "none")
    passes = []
    found, parted = decode_pass(reference, cell, answers, told)
    passes.append(
        found.facts("decode", own, max(len(a.prompt) for a in answers) + size.answer_len, size.answer_len - 1)
    )
    if text:
        begun, _ = decode_pass(reference, cell, _beginnings(text, size), told)
        passes.append(begun.facts("decode", text, size.beginning_len + size.forced_len, size.forced_len - 1))
        window = min(size.window, reference.context_len() - 1)
        read = prefill_pass(reference, cell, text, replace(size, window=window, stride=min(size.stride, window)), told)
        passes.append(read.facts("prefill", text, window, min(size.stride, window)))
    return Quality(passes=tuple(p for p in passes if p), continuations=parted)


def tokenized(reference: LoadedModel, corpus: Corpus) -> Text | None:
    """The corpus in the reference's tokens; None without a tokenizer."""
    tokens = [t for t in map(reference.text_tokens, corpus.documents) if t]
    if not tokens:
        return None
    documents = tuple(t.ids for t in tokens)
    return Text(corpus.name, corpus.digest, tokens[0].tokenizer, tokens[0].bos_id, documents)


def continuations(reference: LoadedModel, size: Amount, report: Report) -> list[Forced]:
    """The reference's own greedy answers to the first of the protocol's prompts."""
    answers = []
    workload = Workload(num_prompts=size.num_prompts, output_len=size.answer_len)
    for index in range(size.num_prompts):
        report(Progress(stage="quality", detail="the reference's own answers", done=index, total=size.num_prompts))
        ids = reference.encode(starting_prompts()[index].text) or workload.token_ids(index, reference.vocab_size())[0]
        answers.append(Forced(ids, reference.generate([ids], size.answer_len, None)[0]))
    return answers


def decode_pass(
    reference: LoadedModel, cell: LoadedModel, texts: Sequence[Forced], told: "_Told"
) -> tuple["_Pass", tuple[GreedyContinuation, ...]]:
    """The cell reads each text token by token, the reference at once; each text is a document.

    Also how many of the forced tokens, from the first, the cell would have chosen itself.
    """
    found, parted = _Pass(reference), []
    for index, text in enumerate(texts):
        expected = reference.logits([*text.prompt, *text.forced], len(text.forced))
        given = cell.forced_logits(text.prompt, text.forced)
        _check_shape(given, expected)
        chosen = given.argmax(-1).tolist()
        same = next((i for i, t in enumerate(text.forced) if chosen[i] != t), len(text.forced))
        parted.append(GreedyContinuation(prompt_index=index, num_identical=same, length=len(text.forced)))
        found.add(expected[1:], given[1:], text.forced[1:], index)  # the first is prefill's
        told.read("token by token through the engine", len(text.forced) - 1)
    return found, tuple(parted)


def prefill_pass(reference: LoadedModel, cell: LoadedModel, text: Text, size: Amount, told: "_Told") -> "_Pass":
    """Both read whole windows."""
    found = _Pass(reference)
    for one in windows(text.documents, size.window, size.stride, text.bos_id, size.num_positions):
        expected = reference.logits(one.ids, one.num_scored)
        given = cell.logits(one.ids, one.num_scored)
        _check_shape(given, expected)
        found.add(expected, given, one.ids[-one.num_scored :], one.document)
        told.read("whole windows", one.num_scored)
    return found


def check_broken(quality: Quality) -> None:
    """The quality gate, for trained weights: random ones say nothing about the next token that could be lost.

    Raises IncorrectOutput for a pass whose mean KL reaches `BROKEN_SHARE` of what ignoring the context would cost.
    """
    for one in quality.passes:
        mean, lost = fmean(one.kl_nats), one.context_free_kl_nats
        if mean >= BROKEN_SHARE * lost:
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
        total = max(self._total, self._done)
        self._report(Progress(stage="quality", detail=detail, done=self._done, total=total))


class _Pass:
    """Gathers a pass, document by document in order."""

    def __init__(self, reference: LoadedModel) -> None:
        self._dtype = reference.dtype()
        self._found, self._context_free = Divergence(), ContextFree()
        self._lengths: dict[int, int] = {}

    def add(self, expected: Any, given: Any, next_ids: Sequence[int], document: int) -> None:
        self._found.extend(divergence(expected, given, next_ids))
        self._context_free.add(expected)
        self._lengths[document] = self._lengths.get(document, 0) + len(next_ids)

    def facts(self, path: PathName, text: Text, window: int, stride: int) -> QualityPass | None:
        """What is kept; None where no position was read. Raises IncorrectOutput for what is not finite."""
        found = self._found
        if not self._lengths:
            return None
        try:
            return QualityPass(
                path=path,
                corpus=text.name,
                corpus_hash=text.digest,
                tokenizer=text.tokenizer,
                window=window,
                stride=stride,
                bos=text.bos_id is not None,
                reference_dtype=self._dtype,
                context_free_kl_nats=self._context_free.kl_nats(),
                document_ends=tuple(accumulate(self._lengths.values())),
                kl_nats=rounded(found.kl_nats),
                top1_agrees="".join("01"[agrees] for agrees in found.top1_agrees),
                top5_overlap="".join(map(str, found.top5_overlap)),
                nll_reference_nats=rounded(found.nll_reference_nats),
                nll_quantized_nats=rounded(found.nll_quantized_nats),
            )
        except ValueError as error:
            raise IncorrectOutput(f"the logits on {text.name} ({path}) are not all finite numbers") from error


def _beginnings(text: Text, size: Amount) -> list[Forced]:
    """The starts of the first documents that are long enough."""
    before, end = [] if text.bos_id is None else [text.bos_id], size.beginning_len + size.forced_len
    long = [ids for ids in text.documents if len(ids) >= end][: size.num_beginnings]
    return [Forced([*before, *ids[: size.beginning_len]], ids[size.beginning_len : end]) for ids in long]


def _digest(texts: Sequence[Forced]) -> str:
    return hashlib.sha256(repr([(t.prompt, t.forced) for t in texts]).encode()).hexdigest()


def _check_shape(given: Any, expected: Any) -> None:
    if given.shape != expected.shape:
        raise IncorrectOutput(f"logits of {tuple(given.shape)}, not {tuple(expected.shape)}")
