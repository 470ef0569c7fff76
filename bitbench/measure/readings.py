"""Chooses what is read, with the 16-bit reference: its own answers, beginnings of documents, whole windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bitbench.engines.base import LoadedModel
from bitbench.facts.corpora import Corpus, windows
from bitbench.facts.messages import Progress
from bitbench.facts.quality import PathName
from bitbench.facts.readings import Reading, Readings, ReadText, digest, filled
from bitbench.facts.workloads import Workload, starting_prompts

CONTINUATIONS = "continuations"
"""The corpus that the reference writes itself: its greedy answers to the protocol's prompts."""

_ANSWERING = "the reference's own answers"

Report = Callable[[Progress], None]
LOGIT_BYTES = 2
"""Of a stored logit."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is read. Decode path: `num_prompts` continuations of `answer_len` tokens, and `forced_len` tokens of
    `num_beginnings` documents after their first `beginning_len`. Prefill path: `num_positions` in `window`s by
    `stride`. `answers_at_once`: the answers are made by reading all of them anew for each token, which on a GPU, where
    the host sets the pace, takes a tenth of the time of one token of one answer after another.
    """

    window: int
    stride: int
    num_positions: int
    num_prompts: int = 8
    answer_len: int = 25
    num_beginnings: int = 20
    beginning_len: int = 32
    forced_len: int = 17
    answers_at_once: bool = False

    @property
    def num_forced(self) -> int:
        """Positions of the decode path: a forced text's first token is decided by prefill and not counted."""
        return self.num_prompts * (self.answer_len - 1) + self.num_beginnings * (self.forced_len - 1)

    @property
    def num_forced_rows(self) -> int:
        """Rows of logits of the decode path."""
        return self.num_prompts * self.answer_len + self.num_beginnings * self.forced_len

    def within(self, budget_bytes: int, vocab_size: int) -> "Amount":
        """As much of it as so many bytes of stored logits hold, shortened on the prefill path.

        Raises ValueError where not even the decode path fits.
        """
        rows = budget_bytes // (LOGIT_BYTES * vocab_size)
        if rows < self.num_forced_rows:
            least = self.num_forced_rows * LOGIT_BYTES * vocab_size
            raise ValueError(
                f"a disk budget of {budget_bytes / 1e9:.2f} GB holds {rows} positions of {vocab_size} logits: "
                f"the decode path alone needs {least / 1e9:.2f} GB (--disk-budget)"
            )
        # A document's last window may bring up to a window's length more than was asked for.
        return replace(self, num_positions=max(0, min(self.num_positions, rows - self.num_forced_rows - self.window)))


# 512 decode positions, many short texts rather than a few long ones: texts are the blocks of the interval.
CPU_AMOUNT = Amount(window=256, stride=256, num_positions=2_560)
GPU_AMOUNT = Amount(window=512, stride=512, num_positions=50_000, answers_at_once=True)
GATE_AMOUNT = Amount(window=256, stride=256, num_positions=0, num_prompts=4, answer_len=17, num_beginnings=0)
"""What is read before timing: 64 positions of the reference's own answers, some seconds of the slowest method."""


def amount(device: str) -> Amount:
    """The default on this device."""
    return CPU_AMOUNT if device == "cpu" else GPU_AMOUNT


def gate_amount(device: str) -> Amount:
    """What is read before timing on this device."""
    return replace(GATE_AMOUNT, answers_at_once=amount(device).answers_at_once)


@dataclass(frozen=True, slots=True)
class _Text:
    """A corpus in the reference's tokens."""

    name: str
    digest: str
    tokenizer: str
    bos_id: int | None
    documents: tuple[list[int], ...]

    @property
    def start(self) -> list[int]:
        """What every window begins with."""
        return [] if self.bos_id is None else [self.bos_id]


def readings(
    reference: LoadedModel, corpus: Corpus | None, size: Amount, report: Report, answers: Reading | None = None
) -> Readings:
    """All that is read. Without a corpus or a tokenizer only the decode path over the reference's own continuations,
    which are generated unless `answers` holds them. Raises OutOfMemory.
    """
    text = _tokenized(reference, corpus) if corpus else None
    found = [answers or _continuations(reference, size, text.tokenizer if text else "none", report)]
    if text:
        window = min(size.window, reference.context_len() - 1)
        fitting = replace(size, window=window, stride=min(size.stride, window))
        found += [_beginnings(text, size), _windows(text, fitting)]
    return Readings(
        reference_dtype=reference.dtype(),
        vocab_size=reference.vocab_size(),
        readings=tuple(reading for reading in found if reading.texts),
    )


def _tokenized(reference: LoadedModel, corpus: Corpus) -> _Text | None:
    """None without a tokenizer."""
    tokens = [t for t in map(reference.text_tokens, corpus.documents) if t]
    if not tokens:
        return None
    documents = tuple(t.ids for t in tokens)
    return _Text(corpus.name, corpus.digest, tokens[0].tokenizer, tokens[0].bos_id, documents)


def _continuations(reference: LoadedModel, size: Amount, tokenizer: str, report: Report) -> Reading:
    """The reference's own greedy answers to the first of the protocol's prompts."""
    workload = Workload(num_prompts=size.num_prompts, output_len=size.answer_len)
    prompts = [
        reference.encode(starting_prompts()[index].text) or workload.token_ids(index, reference.vocab_size())[0]
        for index in range(size.num_prompts)
    ]
    answers = (_answers_at_once if size.answers_at_once else _answers)(reference, prompts, size.answer_len, report)
    texts = [
        ReadText(prompt=tuple(ids), scored=tuple(answer), document=index)
        for index, (ids, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    return Reading(
        path="decode",
        corpus=CONTINUATIONS,
        corpus_hash=digest(texts),
        tokenizer=tokenizer,
        window=max(len(text.ids) for text in texts),
        stride=size.answer_len - 1,
        bos=False,
        texts=tuple(texts),
    )


def _answers(reference: LoadedModel, prompts: Sequence[list[int]], length: int, report: Report) -> list[list[int]]:
    """As the reference generates them, one after another."""
    found = []
    for index, ids in enumerate(prompts):
        report(Progress(stage="quality", detail=_ANSWERING, done=index, total=len(prompts)))
        found += reference.generate([ids], length, None)
    return found


def _answers_at_once(
    reference: LoadedModel, prompts: Sequence[list[int]], length: int, report: Report
) -> list[list[int]]:
    """By reading all prompts and what there is of their answers, for each token anew."""
    import torch

    texts, full = [list(ids) for ids in prompts], max(map(len, prompts)) + length
    for number in range(length):
        report(Progress(stage="quality", detail=_ANSWERING, done=number, total=length))
        logits_BLV = reference.batch_logits([filled(ids, full) for ids in texts])
        last = torch.tensor([len(ids) - 1 for ids in texts], device=logits_BLV.device)
        chosen = logits_BLV[torch.arange(len(texts), device=last.device), last].argmax(dim=-1).tolist()
        for ids, token in zip(texts, chosen, strict=True):
            ids.append(token)
    return [ids[-length:] for ids in texts]


def _beginnings(text: _Text, size: Amount) -> Reading:
    """The starts of the first documents that are long enough, token by token."""
    end = size.beginning_len + size.forced_len
    long = [ids for ids in text.documents if len(ids) >= end][: size.num_beginnings]
    texts = [
        ReadText(
            prompt=(*text.start, *ids[: size.beginning_len]), scored=tuple(ids[size.beginning_len : end]), document=i
        )
        for i, ids in enumerate(long)
    ]
    return _reading("decode", text, end, size.forced_len - 1, texts)


def _windows(text: _Text, size: Amount) -> Reading:
    """Whole windows."""
    found = windows(text.documents, size.window, size.stride, text.bos_id, size.num_positions)
    texts = [
        ReadText(prompt=one.ids[: -one.num_scored], scored=one.ids[-one.num_scored :], document=one.document)
        for one in found
    ]
    return _reading("prefill", text, size.window, size.stride, texts)


def _reading(path: PathName, text: _Text, window: int, stride: int, texts: Sequence[ReadText]) -> Reading:
    return Reading(
        path=path,
        corpus=text.name,
        corpus_hash=text.digest,
        tokenizer=text.tokenizer,
        window=window,
        stride=stride,
        bos=text.bos_id is not None,
        texts=tuple(texts),
    )
