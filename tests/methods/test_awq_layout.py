"""The packing is AutoAWQ's, by gptqmodel's own code."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitbench.methods import awq_layout


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), words=st.integers(1, 5), seed=st.integers(0, 1000))
def test_pack_and_unpack_are_inverse(rows: int, words: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 16, (rows, words * 8), generator=generator, dtype=torch.uint8)
    assert torch.equal(awq_layout.unpack(awq_layout.pack(values)), values)


def test_the_order_in_a_word() -> None:
    """Output 0 in the lowest bits, then 2, 4, 6, 1, 3, 5, 7."""
    word = int(awq_layout.pack(torch.arange(8).reshape(1, 8))[0, 0]) & 0xFFFFFFFF
    assert word == 0x75316420


def test_gptqmodel_dequantizes_the_same() -> None:
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(1)) * 0.02
    stored = awq_layout.round_to_nearest(weight, 64)
    theirs = dequantize_gemm(*stored, 4, 64)
    torch.testing.assert_close(theirs.T.float(), awq_layout.dequantize(*stored), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.1, -0.1])
def test_rounding_is_to_the_nearest_of_sixteen(shift: float) -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(2)) * 0.02 + shift
    qweight, qzeros, scales = awq_layout.round_to_nearest(weight, 32)
    assert (qweight.shape, qzeros.shape, scales.shape) == ((128, 2), (4, 2), (4, 16))
    error = (awq_layout.dequantize(qweight, qzeros, scales) - weight).abs().reshape(16, 4, 32)
    # Half a step; a scale that float16 rounds down leaves 15 steps short by at most 15 * 2^-11 of one.
    assert (error <= (0.5 + 15 * 2**-11 + 1e-5) * scales.T.float().unsqueeze(-1)).all()
    assert error.mean() < 0.3 * scales.float().mean()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e7])
def test_values_without_a_scale_are_refused(value: float) -> None:
    weight = torch.zeros(8, 64)
    weight[3, 40] = value
    with pytest.raises(ValueError, match="not finite, or too large"):
        awq_layout.round_to_nearest(weight, 32)


def test_zeros_stay_zeros() -> None:
    assert not awq_layout.dequantize(*awq_layout.round_to_nearest(torch.zeros(8, 64), 32)).any()


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="groups of 128"):
        awq_layout.round_to_nearest(torch.zeros(8, 576), 128)
    with pytest.raises(ValueError, match="words of 8"):
        awq_layout.round_to_nearest(torch.zeros(12, 128), 128)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_rounds_as_a_cpu_does():
    weight = torch.empty(4096, 1024, dtype=torch.float16).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    parts = (awq_layout.round_to_nearest(where, 128) for where in (weight.cuda(), weight))
    for ours, theirs in zip(*parts, strict=True):
        assert torch.equal(ours.cpu(), theirs)
