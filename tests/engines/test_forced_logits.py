"""Logits of given tokens by each engine's own steps: what the model says at once, and really token by token."""

import pytest
import torch

from bitbench.engines.compiled import CompiledModel
from bitbench.engines.fake import FakeEngine
from bitbench.engines.graphed import GraphedModel
from bitbench.engines.static_step import StaticStepper
from bitbench.engines.transformers import TransformersModel
from bitbench.methods.registry import parse_method
from tests.engines.tiny import VOCAB, checkpoint, in_float32, prompt_ids, write_tiny


@pytest.fixture(scope="module")
def float32(tmp_path_factory):
    return in_float32(write_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize("kind", [TransformersModel, GraphedModel, CompiledModel])
def test_given_tokens_have_the_logits_of_one_forward_over_all(float32, kind):
    model = kind(float32, None, "cpu")
    prompt, forced = prompt_ids(12)[0], prompt_ids(20, seed=2)[0]  # random: not what the model would choose
    before = model.generate([prompt], 10, None)
    found = model.forced_logits(prompt, forced)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model.logits([*prompt, *forced], 20), atol=1e-5, rtol=1e-4)
    assert found.argmax(-1).tolist() != forced
    # A shorter one from the used cache, and nothing is left behind in it.
    torch.testing.assert_close(model.forced_logits(prompt, forced[:7]), found[:7])
    assert model.generate([prompt], 10, None) == before


@pytest.mark.parametrize("kind", [TransformersModel, GraphedModel, CompiledModel])
def test_eager_steps_are_transformers_own_whatever_drives_the_model(float32, kind, monkeypatch):
    """Even where the engine's own steps are wrong."""
    prompt, forced = prompt_ids(12)[0], prompt_ids(20, seed=2)[0]
    expected = TransformersModel(float32, None, "cpu").forced_logits(prompt, forced)
    model = kind(float32, None, "cpu")
    if kind is GraphedModel:
        monkeypatch.setattr(StaticStepper, "step_logits", lambda self: torch.zeros(1, VOCAB))
        assert not torch.equal(model.forced_logits(prompt, forced), expected)
    assert torch.equal(model.eager_logits(prompt, forced), expected)


@pytest.mark.parametrize("kind", [TransformersModel, GraphedModel])
def test_each_token_is_a_step_of_its_own(float32, kind):
    model = kind(float32, None, "cpu")
    model.generate([prompt_ids(12)[0]], 20, None)  # graphed makes its cache
    lengths: list[int] = []
    hook = float32.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(
            kwargs["input_ids"].shape[1] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"].shape[1]
        ),
        with_kwargs=True,
    )
    try:
        model.forced_logits(prompt_ids(12)[0], prompt_ids(5, seed=2)[0])
    finally:
        hook.remove()
    assert lengths == [12, 1, 1, 1, 1]


def test_the_fakes_two_paths_agree(monkeypatch):
    model = FakeEngine().load(checkpoint("nowhere"), parse_method("fp16"), "fake", False)
    ids = [5, 9, 300]
    new = model.generate([ids], 4, None)[0]
    rows = model.forced_logits(ids, new)
    assert rows.shape == (4, model.vocab_size())
    assert rows.argmax(-1).tolist() == new
    assert torch.equal(rows, model.logits([*ids, *new], 4))
    assert torch.equal(rows[1:], model.batch_logits([[*ids, *new]])[0, 3:6])
    assert model.text_tokens("x") is None and not list(model.linear_layers())


class Tokenizer:
    """Letters; some tokenizers put a BOS before a text and some don't."""

    bos_token_id = 1

    def __init__(self, adds_bos: bool) -> None:
        self._adds_bos = adds_bos

    def __len__(self) -> int:
        return VOCAB

    def __call__(self, text, add_special_tokens=True, **_):
        ids = [ord(c) for c in text]
        return {"input_ids": [1, *ids] if self._adds_bos and add_special_tokens else ids}


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_bos_only_where_the_tokenizer_adds_one(float32, adds_bos):
    found = TransformersModel(float32, Tokenizer(adds_bos), "cpu").text_tokens("ab")
    assert found == ([97, 98], 1 if adds_bos else None, f"Tokenizer of {VOCAB} tokens")
    assert TransformersModel(float32, None, "cpu").text_tokens("ab") is None
