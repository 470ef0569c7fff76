"""Each verdict is reached by real work made to have that cause, on this machine's own device."""

import time

import pytest
import torch

from bitbench.explain.verdict import judge
from bitbench.measure import bandwidth, profile
from bitbench.measure.matmul_rate import matmul_flops_per_s
from bitbench.results.summary import summarize
from tests.explain.toy import Int8Linear, Toy, ToyModel
from tests.factories import record

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def verdict(model: ToyModel, prompt_len: int = 8):
    """As a run would measure it: time without a profiler, then the profile, the bandwidth and the product's rate."""
    device = model.toy.device
    model.generate([[1] * prompt_len], 4, None)
    step_bytes = model.weights_bytes()
    row = record(
        "fp16",
        [model.tpot_s()],
        profiles=profile.take(model, device, [[1] * prompt_len] * model.batch),
        bandwidth=bandwidth.measure(device, [step_bytes])[0].bytes_per_s,
        step=step_bytes,
        matmul_flops_per_s=matmul_flops_per_s(device),
        where={"device": device},
    )
    (summary,) = summarize([row])
    return judge(summary)


def test_on_a_cpu_many_rows_are_computing_not_reading():
    found = verdict(ToyModel(Toy(512, 4, "cpu"), batch=64))
    assert found.kind in {"cpu_bound", "compute_bound"}


@ON_GPU
def test_a_host_that_sleeps_between_layers():
    toy = Toy(1024, 24, "cuda:0", between=lambda _: time.sleep(2e-4))
    assert verdict(ToyModel(toy)).kind == "launch_bound"


@ON_GPU
def test_a_host_that_asks_for_a_number_in_every_layer():
    toy = Toy(1024, 24, "cuda:0", between=lambda x_SH: x_SH.sum().item())
    assert verdict(ToyModel(toy)).kind == "sync_bound"


@ON_GPU
def test_tiny_layers_in_a_graph():
    assert verdict(ToyModel(Toy(512, 300, "cuda:0"), captured=True)).kind == "small_kernel_bound"


@ON_GPU
def test_large_layers_read_once():
    assert verdict(ToyModel(Toy(16384, 8, "cuda:0"), captured=True)).kind == "bandwidth_bound"


@ON_GPU
def test_a_huge_batch():
    assert verdict(ToyModel(Toy(8192, 4, "cuda:0"), batch=8192)).kind == "compute_bound"


@ON_GPU
def test_large_weights_that_are_widened_first():
    assert verdict(ToyModel(Toy(16384, 4, "cuda:0", layer=Int8Linear))).kind == "below_bandwidth"
