"""The short norm: transformers' numbers to the bit, in fewer operations, and only where norms are defined so."""

import pytest
import torch
import transformers
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from bitbench.engines.short_norm import short_norm
from tests.engines.counted import Counted
from tests.engines.tiny import in_float32, write_tiny

DEVICES = ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]


def holding(norm):
    return torch.nn.Sequential(norm)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize("shape", [(1, 1, 896), (8, 1, 896), (2, 14, 1, 64), (3, 7, 3584)])
def test_it_is_the_same_to_the_bit(shape, kind, dtype, device):
    norm = kind(shape[-1], eps=1e-6).to(device, dtype)
    norm.weight.data.normal_()
    for size in (1e-3, 1.0, 300.0):
        x = (size * torch.randn(shape, device=device)).to(dtype)
        with torch.inference_mode():
            with Counted() as own:
                expected = norm(x)
            with short_norm(holding(norm)), Counted() as short:
                found = norm(x)
        assert torch.equal(found, expected)
        assert found.dtype is expected.dtype
        assert own.calls - short.calls == {"to": 1}


def test_a_models_norms_are_its_own_again_after_a_step_and_after_an_error(tmp_path):
    model = in_float32(write_tiny(tmp_path))
    own = LlamaRMSNorm.forward
    with short_norm(model):
        assert LlamaRMSNorm.forward is not own
    assert LlamaRMSNorm.forward is own
    with pytest.raises(ZeroDivisionError), short_norm(model):
        _ = 1 / 0
    assert LlamaRMSNorm.forward is own


class OtherRMSNorm(LlamaRMSNorm):
    """Multiplies before it rounds."""

    def forward(self, hidden_states):
        x = hidden_states.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.weight * x).to(hidden_states.dtype)


@pytest.mark.parametrize("norm", [GemmaRMSNorm(64), OtherRMSNorm(64), torch.nn.RMSNorm(64), torch.nn.LayerNorm(64)])
def test_norms_that_are_defined_otherwise_stay(norm):
    own = type(norm).forward
    with short_norm(holding(norm)):
        assert type(norm).forward is own


def test_a_hook_still_sees_them(tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(write_tiny(tmp_path), dtype=torch.float16)
    seen = []
    model.model.norm.register_forward_hook(lambda *_: seen.append("norm"))
    with torch.inference_mode(), short_norm(model):
        model(torch.tensor([[1, 2]]))
    assert seen == ["norm"]
