"""Grouped attention: for steps only, in models with sdpa attention only, only while it is asked for and by cuDNN."""

from contextlib import nullcontext

import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from bitbench.engines.graphed import GraphedModel
from bitbench.engines.grouped_attention import grouped_attention
from bitbench.facts.profile import LABEL_PREFIX
from tests.engines.fake_cudnn import FakeCudnn
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
def test_prompts_are_read_as_without_it(model, padded, monkeypatch):
    """Bit by bit, with the mask that transformers makes of the padding."""
    fake = FakeCudnn().patch(monkeypatch)
    ids = torch.tensor(prompt_ids(20, 2))
    mask = torch.ones_like(ids)
    mask[1, :padded] = 0
    with torch.inference_mode():
        expected = model(ids, attention_mask=mask).logits
        with grouped_attention(model):
            found = model(ids, attention_mask=mask).logits
    assert torch.equal(found, expected)
    assert len(fake.by_others) == 4
    assert not fake.asked
    assert not fake.by_cudnn


@pytest.mark.parametrize("masked", ["nothing", "all heads alike", "each head for itself"])
def test_one_token_sees_what_its_mask_shows(model, masked, monkeypatch):
    fake = FakeCudnn().patch(monkeypatch)
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
    assert len(fake.by_cudnn) == (0 if mask is None else 2)
    assert all(call["attn_mask"] is mask for call in fake.by_cudnn)


@pytest.mark.parametrize(
    ("fake", "may"),
    [
        (FakeCudnn(), True),
        (FakeCudnn(version=91501), True),
        (FakeCudnn(can_use=False), False),
        (FakeCudnn(capability=(8, 0)), False),
        (FakeCudnn(capability=(10, 0)), False),
        (FakeCudnn(version=91500), False),
        (FakeCudnn(version=None), False),
    ],
)
def test_cudnn_attends_where_it_can_and_is_known_to_do_it_well(model, fake, may, monkeypatch):
    fake.patch(monkeypatch)
    ids, mask = torch.tensor(prompt_ids(21, 2)), torch.zeros(2, 1, 1, 21)
    with torch.inference_mode(), grouped_attention(model):
        cache = model(ids[:, :20]).past_key_values
        fake.by_others.clear()
        model(ids[:, 20:], past_key_values=cache, attention_mask=mask)
    assert [len(fake.by_cudnn), len(fake.by_others)] == ([2, 0] if may else [0, 2])
    assert len(fake.asked) == 2
    for asked, call, layer in zip(fake.asked, fake.by_cudnn, cache.layers, strict=False):
        assert call["key"] is layer.keys
        assert call["value"] is layer.values
        assert call["enable_gqa"]
        assert call["scale"] == 16**-0.5
        assert not call["is_causal"]
        assert call["dropout_p"] == 0
        assert (asked.dropout, asked.is_causal, asked.enable_gqa) == (0, False, True)
        for name, tensor in {**call, "attn_mask": mask}.items():
            if isinstance(tensor, torch.Tensor):
                assert getattr(asked, name).data_ptr() == tensor.data_ptr()
                assert getattr(asked, name).shape == tensor.shape


def test_without_cudnn_a_step_is_transformers_own(model, monkeypatch):
    """Torch itself is asked here, and it says no on a CPU and in float32."""
    mask = torch.zeros(2, 1, 1, 21)
    mask[..., 3:9] = -float("inf")
    ids = torch.tensor(prompt_ids(21, 2))
    own = transformers.AttentionInterface()["sdpa"]
    attended = []

    def recorded(module, query, key, *tensors, **others):
        attended.append(key)
        return own(module, query, key, *tensors, **others)

    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, "sdpa", recorded)
    logits = []
    with torch.inference_mode():
        for attention in (nullcontext, grouped_attention):
            cache = model(ids[:, :20]).past_key_values
            attended.clear()
            with attention(model):
                logits.append(model(ids[:, 20:], past_key_values=cache, attention_mask=mask).logits)
    assert torch.equal(*logits)
    assert [key.data_ptr() for key in attended] == [layer.keys.data_ptr() for layer in cache.layers]


@pytest.mark.parametrize("fake", [FakeCudnn(), FakeCudnn(can_use=False)])
def test_a_profile_finds_it_in_the_attention(model, fake, monkeypatch):
    fake.patch(monkeypatch)
    stepped = GraphedModel(model, None, "cpu")
    with stepped.annotated(), profile(activities=[ProfilerActivity.CPU]) as recorded:
        stepped.generate(prompt_ids(20), 6, None)
    events = recorded.events()
    assert events is not None
    found = [_label_around(event) for event in events if event.name == "aten::scaled_dot_product_attention"]
    # Two layers: the prompt of two tokens that makes the cache, the prompt itself and five steps.
    assert found == [LABEL_PREFIX + "attention"] * 2 * 7
    assert len(fake.by_cudnn) == (2 * 5 if fake.can_use else 0)


def _label_around(event):
    while event is not None and not event.name.startswith(LABEL_PREFIX):
        event = event.cpu_parent
    return event and event.name
