"""The decoder's kernel counts cycles for as long as it is asked to, and time again after that."""

import clock_under_load
import pytest

from bitbench.decode import cuda_source


def test_the_kernel_counts_cycles_and_then_time_again():
    before = cuda_source.source("step.cu")
    with clock_under_load.counting(cycles=True):
        text = cuda_source.source("step.cu")
    assert "%globaltimer" not in text
    assert text.replace("%clock64;", "%globaltimer;") == before
    with pytest.raises(ZeroDivisionError), clock_under_load.counting(cycles=True):
        _ = 1 / 0
    with clock_under_load.counting(cycles=False):
        assert cuda_source.source("step.cu") == before
    assert cuda_source.source("step.cu") == before
