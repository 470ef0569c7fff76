"""Both paths on a tiny model: the figures are those of a plain computation, and what is broken is found to be."""

import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from bitbench.engines.base import TextTokens
from bitbench.engines.fake import FakeEngine
from bitbench.engines.graphed import GraphedModel
from bitbench.engines.transformers import TransformersModel
from bitbench.facts.corpora import Corpus
from bitbench.measure import quality
from bitbench.measure.gaps import IncorrectOutput
from bitbench.measure.readings import Amount, amount, readings
from bitbench.measure.reference import LiveReference
from bitbench.methods.registry import parse_method
from tests.engines.tiny import VOCAB, checkpoint, in_float32, make_certain, write_tiny

SIZE = Amount(
    window=40,
    stride=40,
    num_positions=200,
    num_prompts=3,
    num_beginnings=4,
    answer_len=9,
    beginning_len=8,
    forced_len=9,
)
CORPUS = Corpus("letters", "0123", tuple("".join(chr(97 + (i * k) % 26) for i in range(50 + k)) for k in range(1, 9)))
BOS = 1


class Reader(TransformersModel):
    """Reads letters."""

    bos_id: int | None = BOS

    def text_tokens(self, text):
        return TextTokens([ord(c) for c in text], self.bos_id, "letters")


class Stepper(GraphedModel):
    def text_tokens(self, text):
        raise AssertionError("the reference's tokens are the ones")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def reference(folder):
    return Reader(make_certain(in_float32(folder)), None, "cpu")


def changed(folder, noise: float = 0.02):
    """The same model with a little noise on a matrix, as rounding would leave it."""
    model = make_certain(in_float32(folder))
    with torch.no_grad():
        weight = model.model.layers[0].mlp.down_proj.weight
        weight += noise * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return model


def quiet(_):
    pass


def measured(reference, cell, size=SIZE, corpus=CORPUS, report=quiet):
    live = LiveReference(reference, readings(reference, corpus, size, report))
    return quality.compare(live, cell, report)


def test_a_model_beside_itself_has_nothing_lost(reference):
    found = measured(reference, reference)
    assert [(p.path, p.corpus) for p in found.passes] == [
        ("decode", "continuations"), ("decode", "letters"), ("prefill", "letters"),
    ]  # fmt: skip
    for one in found.passes:
        assert max(one.kl_nats) < 1e-4  # by steps and at once, in float32
        assert one.top1_agrees.count("1") >= 0.98 * one.num_positions
        assert one.context_free_kl_nats > 1
    assert all(c.num_identical == c.length == 9 for c in found.continuations)
    quality.check_broken(found)


@pytest.mark.parametrize("kind", [TransformersModel, Stepper])
@pytest.mark.parametrize("bos_id", [BOS, None])
def test_the_figures_are_those_of_a_plain_computation(folder, reference, monkeypatch, kind, bos_id):
    monkeypatch.setattr(Reader, "bos_id", bos_id)
    cell = kind(changed(folder), None, "cpu")
    told = []
    found = measured(reference, cell, report=told.append)
    assert (told[-1].done, told[-1].stage) == (told[-1].total, "quality")
    before = [] if bos_id is None else [bos_id]
    documents = [[ord(c) for c in text] for text in CORPUS.documents]

    begun = found.passes[1]
    texts = [([*before, *ids[:17]], 8) for ids in documents[:4]]
    check(begun, texts, reference._model, cell._model)
    assert (begun.window, begun.stride, begun.bos, begun.tokenizer) == (17, 8, bos_id is not None, "letters")

    read = found.passes[2]
    parts = [part for ids in documents for part in (ids[:40], ids[40:]) if len(part) >= 17]
    texts = [([*before, *part], len(before) + len(part) - 1) for part in parts]
    enough = next(i for i in range(len(texts)) if sum(n for _, n in texts[: i + 1]) >= 200)
    check(read, texts[: enough + 1], reference._model, cell._model)
    assert (read.window, read.stride, read.corpus_hash) == (40, 40, "0123")


@pytest.mark.parametrize("tokens", [41, 100, 1000])
def test_windows_read_together_and_filled_up_give_the_same_figures(folder, reference, tokens):
    cell = TransformersModel(changed(folder), None, "cpu")
    live = LiveReference(reference, readings(reference, CORPUS, SIZE, quiet))
    calls, forward = [], cell.batch_logits
    cell.batch_logits = lambda ids: (calls.append([len(row) for row in ids]), forward(ids))[1]
    alone, together = (quality.compare(live, cell, quiet, n).passes[2] for n in (0, tokens))
    number = len(live.readings.readings[2].texts)
    assert [len(lengths) for lengths in calls][:-1] == [tokens // 41] * (-(-number // (tokens // 41)) - 1)
    assert {length for lengths in calls for length in lengths} == {41}  # a BOS and 40
    assert together.kl_nats == pytest.approx(alone.kl_nats, abs=1e-6, rel=1e-3)
    assert together.nll_quantized_nats == pytest.approx(alone.nll_quantized_nats, abs=1e-4)
    assert together.document_ends == alone.document_ends


def check(one, texts, reference, cell):
    """Texts of (ids, how many of the last are scored), float64 in numpy."""
    kls, ratios, agreements = [], [], []
    for ids, num in texts:
        p, q = (probabilities(model, ids)[-num - 1 : -1] for model in (reference, cell))
        kls += list((p * np.log(p / q)).sum(1))
        ratios += [math.log(p[i, t] / q[i, t]) for i, t in enumerate(ids[-num:])]
        agreements += list(p.argmax(1) == q.argmax(1))
    assert one.kl_nats == pytest.approx(kls, abs=1e-5, rel=0.02)  # steps and one forward differ in float32
    differences = [b - a for a, b in zip(one.nll_reference_nats, one.nll_quantized_nats, strict=True)]
    assert differences == pytest.approx(ratios, abs=1e-3)
    assert sum(one.top1_agrees[i] == "01"[int(a)] for i, a in enumerate(agreements)) >= len(agreements) - 1


def probabilities(model, ids):
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].double().numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def test_windows_are_let_go_before_the_next_are_read(folder, reference):
    alive = []

    class Watched(TransformersModel):
        def batch_logits(self, ids):
            gc.collect()
            assert not any(ref() is not None for ref in alive)
            memory = super().batch_logits(ids).numpy().copy()
            alive[:] = [weakref.ref(memory)]
            return torch.from_numpy(memory)  # keeps it as long as any of its views lives

    cell = Watched(changed(folder, noise=0.1), None, "cpu")
    live = LiveReference(reference, readings(reference, CORPUS, SIZE, quiet))
    quality.compare(live, cell, quiet, tokens_at_once=80)
    assert alive


def test_answers_made_at_once_are_those_that_the_reference_generates(reference):
    one_by_one, at_once = (
        readings(reference, None, replace(SIZE, answers_at_once=together), quiet).readings[0].texts
        for together in (False, True)
    )
    assert at_once == one_by_one
    assert len({len(text.prompt) for text in at_once}) > 1 or len(at_once) == 1  # filled up to one length


def test_a_continuation_ends_where_the_cell_would_generate_otherwise(folder, reference):
    """Known from teacher forcing, it is what two greedy generations show."""
    cell = TransformersModel(changed(folder, noise=2.0), None, "cpu")
    found = measured(reference, cell)
    answers = readings(reference, None, SIZE, quiet).readings[0].texts
    for one, answer in zip(found.continuations, answers, strict=True):
        own = cell.generate([answer.prompt], SIZE.answer_len, None)[0]
        same = next((i for i, (a, b) in enumerate(zip(own, answer.scored, strict=True)) if a != b), len(own))
        assert (one.num_identical, one.length) == (same, 9)
    assert any(c.num_identical < 9 for c in found.continuations)


class Zeros(TransformersModel):
    def forced_logits(self, prompt_ids, forced_ids):
        return torch.zeros_like(super().forced_logits(prompt_ids, forced_ids))


class LastStep(TransformersModel):
    """The graph is replayed, the result of the step before is read."""

    def forced_logits(self, prompt_ids, forced_ids):
        return super().forced_logits(prompt_ids, forced_ids).roll(1, dims=0)


class Permuted(TransformersModel):
    """A matrix whose rows lie in another order, in both paths."""

    def __init__(self, model, tokenizer, device):
        super().__init__(model, tokenizer, device)
        with torch.no_grad():
            model.lm_head.weight.copy_(model.lm_head.weight.roll(7, dims=0))


@pytest.mark.parametrize("cheat", [Zeros, LastStep, Permuted])
def test_broken_output_is_found_by_the_gate(folder, reference, cheat):
    """A broken decode path is found although prefill is as it should be."""
    found = measured(reference, cheat(make_certain(in_float32(folder)), None, "cpu"))
    with pytest.raises(IncorrectOutput, match=r"the output is broken: on continuations \(decode\) mean KL"):
        quality.check_broken(found)
    if cheat is not Permuted:
        assert max(found.passes[2].kl_nats) < 1e-4


class Nan(TransformersModel):
    def logits(self, ids, num_last):
        return super().logits(ids, num_last) * float("nan")


class Narrow(TransformersModel):
    def logits(self, ids, num_last):
        return super().logits(ids, num_last)[:, :-1]


class OtherVocabulary(TransformersModel):
    def vocab_size(self):
        return VOCAB + 1


@pytest.mark.parametrize(
    ("kind", "reason"), [(Nan, "not all finite"), (Narrow, "logits of"), (OtherVocabulary, "513 logits a token")]
)
def test_what_are_no_logits_is_incorrect(reference, kind, reason):
    with pytest.raises(IncorrectOutput, match=reason):
        measured(reference, kind(reference._model, None, "cpu"))


def test_without_a_tokenizer_the_references_own_answers_remain(reference):
    plain = TransformersModel(reference._model, None, "cpu")
    (only,) = measured(plain, plain).passes
    assert (only.corpus, only.path, only.num_positions, only.bos) == ("continuations", "decode", 24, False)
    assert [d.stop - d.start for d in only.documents] == [8, 8, 8]
    assert measured(plain, plain, corpus=None).passes == (only,)


def test_the_fake_can_be_measured():
    model = FakeEngine().load(checkpoint("nowhere"), parse_method("fp16"), "fake", False)
    found = measured(model, model, Amount(8, 8, 16, num_prompts=2, answer_len=5))
    assert found.passes[0].kl_nats == (0.0,) * 8
    quality.check_broken(found)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_the_decode_path_reads_512_positions_everywhere(device):
    assert amount(device).num_forced >= 512
