"""The rate of products is plausible and never takes long, whatever type a CPU emulates."""

import time

from bitbench.measure.matmul_rate import matmul_flops_per_s


def test_a_cpu_reaches_a_plausible_rate_soon():
    began = time.monotonic()
    rate = matmul_flops_per_s("cpu")
    assert 1e9 < rate < 1e14
    assert time.monotonic() - began < 20
