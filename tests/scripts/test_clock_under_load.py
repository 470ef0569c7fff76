"""The decoder's kernel is another for as long as it is asked to be, and itself after that."""

import clock_under_load
import pytest

from bitbench.decode import cuda_source
from bitbench.decode.step_source import FILE


def test_the_kernel_counts_cycles_and_is_itself_again():
    before = cuda_source.source(FILE)
    with clock_under_load.changed("everywhere"):
        text = cuda_source.source(FILE)
    assert "%globaltimer" not in text
    assert text.replace("%clock64;", "%globaltimer;") == before
    with pytest.raises(ZeroDivisionError), clock_under_load.changed("nowhere"):
        _ = 1 / 0
    assert cuda_source.source(FILE) == before


@pytest.mark.parametrize(("where", "is_used_in_attention"), [("nowhere", False), ("in attention", True)])
def test_tensor_cores_are_used_only_there(where, is_used_in_attention):
    with clock_under_load.changed(where):
        text = cuda_source.source(FILE)
    calls = [line for line in text.splitlines() if "by_tensor_cores(" in line and "DEVICE" not in line]
    assert bool(calls) == is_used_in_attention
    assert all(word in "".join(calls) for word in ("query", "weights")) == is_used_in_attention
    assert text.count("DEVICE void mma(float") == 1


def test_other_kernels_stay():
    before = cuda_source.source("gather.cu")
    with clock_under_load.changed("nowhere"):
        assert cuda_source.source("gather.cu") == before
