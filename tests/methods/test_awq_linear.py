"""Products in float32 stand in for those in bfloat16 where they are faster, and nowhere else."""

import pytest
import torch
from torch.nn import functional

from bitbench.methods import awq_linear
from bitbench.methods.awq_linear import fast_linear


@pytest.fixture
def operands():
    torch.manual_seed(0)
    return torch.randn(5, 64, dtype=torch.bfloat16), torch.nn.Linear(64, 32, dtype=torch.bfloat16)


@pytest.fixture
def float32_is_faster(monkeypatch):
    monkeypatch.setattr(awq_linear, "_faster", lambda linear: True)


@pytest.mark.usefixtures("float32_is_faster")
def test_a_product_is_the_rounded_one_of_float32(operands):
    x, layer = operands
    with fast_linear("cpu"):
        found = layer(x)
    exact = functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.to(torch.bfloat16))


@pytest.mark.usefixtures("float32_is_faster")
def test_without_a_bias_and_in_other_types_too(operands):
    x, layer = operands
    with fast_linear("cpu"):
        without = functional.linear(input=x, weight=layer.weight)
        half = functional.linear(x.half(), layer.weight.half())
    assert torch.equal(without, functional.linear(x.float(), layer.weight.float()).to(x.dtype))
    assert torch.equal(half, functional.linear(x.half(), layer.weight.half()))


@pytest.mark.usefixtures("float32_is_faster")
def test_afterwards_all_is_as_before():
    original = functional.linear
    with pytest.raises(KeyError), fast_linear("cpu"):
        assert functional.linear is not original
        raise KeyError
    assert functional.linear is original


@pytest.mark.parametrize(("device", "faster"), [("cuda:0", True), ("cpu", False)])
def test_not_on_a_gpu_nor_where_bfloat16_is_faster(monkeypatch, device, faster):
    monkeypatch.setattr(awq_linear, "_faster", lambda linear: faster)
    original = functional.linear
    with fast_linear(device):
        assert functional.linear is original


def test_what_is_faster_is_found_by_trying():
    def slow_in_16_bit(x, weight, bias=None):
        if x.dtype == torch.bfloat16:
            for _ in range(20):
                functional.linear(x.float(), weight.float())
        return functional.linear(x.float(), weight.float()).to(x.dtype)

    assert awq_linear._faster(slow_in_16_bit)
    assert not awq_linear._faster(lambda x, weight, bias=None: x)
