"""The short rotation: transformers' numbers to the bit, in fewer operations, only in steps and only where it may."""

import sys

import pytest
import torch

from bitbench.engines.short_rotation import short_rotation
from tests.engines.counted import Counted
from tests.engines.tiny import in_float32, prompt_ids, write_tiny

KINDS = ["Llama", "Qwen2", "Qwen3", "Mistral"]


def one_step(model, batch_size=2):
    """Logits of the 21st token and the operations that it took."""
    ids = torch.tensor(prompt_ids(21, batch_size), device=model.device)
    with torch.inference_mode():
        cache = model(ids[:, :20]).past_key_values
        with short_rotation(model), Counted() as counted:
            return model(ids[:, 20:], past_key_values=cache).logits, counted.calls


def own_step(model, monkeypatch, batch_size=2):
    with monkeypatch.context() as patch:
        patch.setattr("bitbench.engines.short_rotation._turns_halves", lambda theirs: False)
        return one_step(model, batch_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_steps_logits_are_equal_to_the_bit_with_fewer_operations(kind, dtype, tmp_path, monkeypatch):
    model = in_float32(write_tiny(tmp_path, kind)).to(dtype)
    own, before = own_step(model, monkeypatch)
    found, calls = one_step(model)
    assert torch.equal(found, own)
    layers = model.config.num_hidden_layers
    assert (before["roll"], calls["roll"]) == (0, layers)
    assert before["neg"] - calls["neg"] == 2 * layers - 1  # the sine's, once
    assert before["cat"] - calls["cat"] == layers - 1
    for name in ("mul", "add"):
        assert before[name] - calls[name] == (2 if name == "mul" else 1) * layers


def test_prompts_are_read_by_transformers_own(tmp_path):
    model = in_float32(write_tiny(tmp_path))
    ids = torch.tensor(prompt_ids(20, 2))
    with torch.inference_mode():
        expected = model(ids).logits
        with short_rotation(model), Counted() as counted:
            found = model(ids).logits
    assert torch.equal(found, expected)
    assert counted.calls["roll"] == 0


def test_a_forward_never_gets_the_sines_of_the_one_before(tmp_path, monkeypatch):
    model = in_float32(write_tiny(tmp_path))
    ids = torch.tensor(prompt_ids(24))
    with torch.inference_mode():
        cache = model(ids[:, :20]).past_key_values
        with short_rotation(model):
            steps = [model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(20, 24)]
        expected = model(ids).logits[:, 20:]
    assert torch.allclose(torch.cat(steps, dim=1), expected, atol=1e-5)


def test_the_models_own_function_is_back_after_a_step_and_after_an_error(tmp_path):
    model = in_float32(write_tiny(tmp_path))
    module = sys.modules[type(model).__module__]
    own = module.apply_rotary_pos_emb
    with short_rotation(model):
        assert module.apply_rotary_pos_emb is not own
    assert module.apply_rotary_pos_emb is own
    with pytest.raises(ZeroDivisionError), short_rotation(model):
        _ = 1 / 0
    assert module.apply_rotary_pos_emb is own


def interleaved(q, k, cos, sin, unsqueeze_dim=1):
    def turned(x):
        pairs = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return x * cos.unsqueeze(unsqueeze_dim) + pairs * sin.unsqueeze(unsqueeze_dim)

    return turned(q), turned(k)


def of_a_part(q, k, cos, sin, unsqueeze_dim=1):
    """As Phi-3 does, by transformers' function for what is turned."""
    length, cos, sin = cos.shape[-1], cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    half = length // 2

    def turned(x):
        part = x[..., :length]
        other = torch.cat((-part[..., half:], part[..., :half]), dim=-1)
        return torch.cat((part * cos + other * sin, x[..., length:]), dim=-1)

    return turned(q), turned(k)


@pytest.mark.parametrize("heads_first", [True, False])
def test_other_arguments_and_parts_of_heads_are_left_to_the_models_own_function(heads_first, tmp_path, monkeypatch):
    model = in_float32(write_tiny(tmp_path))
    module = sys.modules[type(model).__module__]
    monkeypatch.setattr(module, "apply_rotary_pos_emb", of_a_part)
    q, k = torch.randn(2, 4, 1, 16), torch.randn(2, 2, 1, 16)
    cos, sin = torch.randn(2, 2, 1, 8)
    others = () if heads_first else (2,)
    if others:
        q, k, cos, sin = q.transpose(1, 2), k.transpose(1, 2), *torch.randn(2, 2, 1, 16)
    with short_rotation(model):
        assert module.apply_rotary_pos_emb is not of_a_part
        found = module.apply_rotary_pos_emb(q, k, cos, sin, *others)
    assert all(torch.equal(*pair) for pair in zip(found, of_a_part(q, k, cos, sin, *others), strict=True))


def of_positions(q, k, cos, sin, position_ids):
    raise AssertionError("not with these arguments")


@pytest.mark.parametrize("other", [interleaved, of_positions, None])
def test_an_architecture_that_rotates_otherwise_keeps_its_own(other, tmp_path, monkeypatch):
    model = in_float32(write_tiny(tmp_path))
    module = sys.modules[type(model).__module__]
    if other:
        monkeypatch.setattr(module, "apply_rotary_pos_emb", other)
    else:
        monkeypatch.delattr(module, "apply_rotary_pos_emb")
    with short_rotation(model):
        assert getattr(module, "apply_rotary_pos_emb", None) is other
