"""The decoder's kernel is another for as long as it is asked to be, and itself after that."""

from functools import partial

import clock_under_load
import pytest
from changed_kernel import changed, replaced

from bitbench.decode import cuda_source
from bitbench.decode.step_source import FILE


def by_tensor_cores(where):
    return partial(clock_under_load.of_tensor_cores, where=where)


def test_the_kernel_counts_cycles_and_is_itself_again():
    before = cuda_source.source(FILE)
    with changed(by_tensor_cores("everywhere")):
        text = cuda_source.source(FILE)
    assert "%globaltimer" not in text
    assert text.replace("%clock64;", "%globaltimer;") == before
    with pytest.raises(ZeroDivisionError), changed(by_tensor_cores("nowhere")):
        _ = 1 / 0
    assert cuda_source.source(FILE) == before


@pytest.mark.parametrize(("where", "is_used_in_attention"), [("nowhere", False), ("in attention", True)])
def test_tensor_cores_are_used_only_there(where, is_used_in_attention):
    text = clock_under_load.of_tensor_cores(cuda_source.source(FILE), where)
    calls = [line for line in text.splitlines() if "by_tensor_cores(" in line and "DEVICE" not in line]
    assert bool(calls) == is_used_in_attention
    assert all(word in "".join(calls) for word in ("query", "weights")) == is_used_in_attention
    assert text.count("DEVICE void mma(float") == 1


def test_places_are_stamped_with_nanoseconds():
    text = clock_under_load.of_time(cuda_source.source(FILE))
    assert "DEVICE u32 cycles() { return (u32)nanoseconds(); }" in text
    assert text.index("DEVICE u64 nanoseconds()") < text.index("DEVICE u32 cycles()")


def test_other_kernels_stay():
    before = cuda_source.source("gather.cu")
    with changed(by_tensor_cores("nowhere")):
        assert cuda_source.source("gather.cu") == before


def test_what_is_to_be_replaced_is_there_once():
    assert replaced("a b", "b", "c") == "a c"
    for text in ("a", "b b"):
        with pytest.raises(AssertionError, match="times in the kernel: b"):
            replaced(text, "b", "c")
