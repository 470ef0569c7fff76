"""Grouped attention: for steps only, in models with sdpa attention only, and only while it is asked for."""

from contextlib import nullcontext

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bitbench.engines.graphed import GraphedModel
from bitbench.engines.grouped_attention import grouped_attention
from bitbench.facts.profile import LABEL_PREFIX
from tests.engines.tiny import in_float32, prompt_ids, write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return in_float32(write_tiny(tmp_path_factory.mktemp("tiny")))


def test_the_models_own_attention_is_back_after_a_step_and_after_an_error(model):
    with grouped_attention(model):
        assert model.config._attn_implementation != "sdpa"
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(ZeroDivisionError), grouped_attention(model):
        _ = 1 / 0
    assert model.config._attn_implementation == "sdpa"


def test_a_model_with_eager_attention_keeps_it(tmp_path):
    model = in_float32(write_tiny(tmp_path))
    model.set_attn_implementation("eager")
    with grouped_attention(model):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("padded", [0, 7])
def test_prompts_are_read_as_without_it(model, padded):
    """Bit by bit, with the mask that transformers makes of the padding."""
    ids = torch.tensor(prompt_ids(20, 2))
    mask = torch.ones_like(ids)
    mask[1, :padded] = 0
    with torch.inference_mode():
        expected = model(ids, attention_mask=mask).logits
        with grouped_attention(model):
            found = model(ids, attention_mask=mask).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("masked", ["nothing", "all heads alike", "each head for itself"])
def test_one_token_sees_what_its_mask_shows(model, masked):
    mask = torch.zeros(2, 4, 1, 21)
    mask[..., 3:9] = -float("inf")
    mask[:, 1, :, 10:] = -float("inf")
    mask = {"nothing": None, "all heads alike": mask[:, :1], "each head for itself": mask}[masked]
    ids = torch.tensor(prompt_ids(21, 2))
    logits = []
    with torch.inference_mode():
        for attention in (grouped_attention, nullcontext):
            cache = model(ids[:, :20]).past_key_values
            with attention(model):
                logits.append(model(ids[:, 20:], past_key_values=cache, attention_mask=mask).logits)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_a_profile_finds_it_in_the_attention(model):
    stepped = GraphedModel(model, None, "cpu")
    with stepped.annotated(), profile(activities=[ProfilerActivity.CPU]) as recorded:
        stepped.generate(prompt_ids(20), 6, None)
    events = recorded.events()
    assert events is not None
    found = [_label_around(event) for event in events if event.name == "aten::scaled_dot_product_attention"]
    # Two layers: the prompt of two tokens that makes the cache, the prompt itself and five steps.
    assert found == [LABEL_PREFIX + "attention"] * 2 * 7


def _label_around(event):
    while event is not None and not event.name.startswith(LABEL_PREFIX):
        event = event.cpu_parent
    return event and event.name
