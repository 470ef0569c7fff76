"""Our figures against an independent computation in float64: transformers' own logits and loss, numpy's sums."""

import math

import numpy as np
import pytest
import torch
import transformers

from bitbench.engines.base import TextTokens
from bitbench.engines.transformers import TransformersModel
from bitbench.facts.corpora import Corpus
from bitbench.facts.quality import rounded
from bitbench.measure import quality
from bitbench.measure.divergence import divergence
from bitbench.measure.readings import Amount, readings
from bitbench.measure.reference import LiveReference
from bitbench.results import quality_stats as stats
from tests.engines.tiny import make_certain, write_tiny

SIZE = Amount(window=60, stride=60, num_positions=400, num_prompts=2, answer_len=5, num_beginnings=0)
CORPUS = Corpus("letters", "0", tuple("".join(chr(97 + (i * i * k) % 26) for i in range(60)) for k in range(1, 8)))


class Reader(TransformersModel):
    def text_tokens(self, text):
        return TextTokens([ord(c) for c in text], None, "letters")


def in_float64(folder, noise: float = 0.0):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, use_cache=True, return_dict_in_generate=True, pad_token_id=0
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in model.model.layers:
            weight = layer.mlp.up_proj.weight
            weight += noise * weight.std() * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return make_certain(model)


@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_kl_and_perplexity_agree_to_1e_6(tmp_path, noise):
    folder = write_tiny(tmp_path / "tiny")
    models = [in_float64(folder), in_float64(folder, noise)]
    reference, cell = Reader(models[0], None, "cpu"), TransformersModel(models[1], None, "cpu")
    kls, nlls = [], ([], [])
    for text in CORPUS.documents:
        ids = torch.tensor([[ord(c) for c in text]])
        with torch.inference_mode():
            outputs = [model(ids, labels=ids) for model in models]
        p, q = (np.exp(o.logits[0, :-1].numpy()) for o in outputs)
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        kl = (p * np.log(p / q)).sum(1)
        kls += list(kl)
        for losses, output in zip(nlls, outputs, strict=True):
            loss = float(torch.nn.functional.cross_entropy(output.logits[0, :-1], ids[0, 1:]))
            assert float(output.loss) == pytest.approx(loss, rel=1e-6)  # transformers' own, in float32
            losses.append((loss, len(text) - 1))
        ours = divergence(outputs[0].logits[0, :-1], outputs[1].logits[0, :-1], ids[0, 1:].tolist())
        assert ours.kl_nats == pytest.approx(kl, abs=1e-9)
        assert np.mean(ours.nll_quantized_nats) == pytest.approx(nlls[1][-1][0], abs=1e-9)
    perplexities = [math.exp(sum(x * n for x, n in of) / sum(n for _, n in of)) for of in nlls]

    live = LiveReference(reference, readings(reference, CORPUS, SIZE, lambda _: None))
    found = quality.compare(live, cell, lambda _: None).passes[-1]
    assert (found.path, found.num_positions, found.reference_dtype) == ("prefill", len(kls), "float64")
    # A record keeps five digits of each position, which average out.
    assert stats.kl(found).mean == pytest.approx(np.mean(kls), rel=1e-5, abs=1e-6)
    assert stats.perplexities(found) == pytest.approx(tuple(perplexities), rel=1e-4)  # random text: 19 nats a letter
    assert stats.perplexity_ratio(found).value == pytest.approx(perplexities[1] / perplexities[0], rel=1e-4)


def test_the_demo_agrees_too(demo_checkpoint):
    """Its own tokenizer and text, as `bitbench quality` reads them, on one document."""
    from bitbench.engines.transformers import TransformersEngine
    from bitbench.facts.corpora import built_in
    from bitbench.methods.registry import parse_method, reference_method

    engine = TransformersEngine()
    reference = engine.load(demo_checkpoint, reference_method("cpu"), "cpu", False)
    cell = engine.load(demo_checkpoint, parse_method("bnb-nf4"), "cpu", False)
    corpus = Corpus("one", "0", built_in().documents[:1])
    size = Amount(window=64, stride=64, num_positions=60, num_prompts=1, answer_len=2, num_beginnings=0)
    made = readings(reference, corpus, size, lambda _: None)
    found = quality.compare(LiveReference(reference, made), cell, lambda _: None).passes[-1]
    text = made.readings[-1].texts[0]
    with torch.inference_mode():
        p, q = (
            model._model(torch.tensor([text.ids]))
            .logits[0]
            .double()
            .log_softmax(-1)[-len(text.scored) - 1 : -1]
            .numpy()
            for model in (reference, cell)
        )
    assert stats.kl(found).mean == pytest.approx((np.exp(p) * (p - q)).sum(1).mean(), rel=1e-5)
    scored = list(text.scored)
    kept = rounded(-q[range(len(scored)), scored])  # of 13.762 nats half a unit of the last digit is 5e-4
    assert stats.perplexities(found)[1] == pytest.approx(math.exp(np.mean(kept)), rel=1e-5)
