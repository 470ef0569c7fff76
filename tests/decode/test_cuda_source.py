"""Kernels are compiled once for each device and set of macros, and launched there."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from bitbench.decode import cuda_source
from bitbench.decode.cuda_source import compiled, fields, source
from bitbench.facts.errors import Unsupported


def test_files_are_put_in_their_places():
    text = source("step.cu")
    assert '#include "' not in text
    assert "DEVICE void mma(" in text and "decode_steps(" in text
    assert fields(source("gather.cu"))[:3] == ("packed", "units", "ends")


def test_earlier_gpus_copy_by_other_means():
    earlier, later = source("step.cu", (8, 9)), source("step.cu", (9, 0))
    for text in (earlier, later):
        assert text.count("DEVICE void produce(") == text.count("DEVICE void mbarrier_wait(") == 1
    assert "cp.async.cg" in earlier and "cp.async.bulk" not in earlier
    assert "cp.async.bulk" in later and "cp.async.cg" not in later


def test_a_kernel_is_compiled_once_and_launched_on_its_device(monkeypatch):
    current, made, launched = [], [], []

    class Run:
        def set_shared_memory_config(self, num_bytes):
            self.num_bytes = num_bytes

        def __call__(self, grid, block, arguments, shared_bytes):
            assert shared_bytes <= getattr(self, "num_bytes", 0)
            launched.append((current[-1], grid, block, arguments))

    def make(text, name, nvcc_options):
        made.append((current[-1], name, nvcc_options))
        return Run()

    @contextmanager
    def on(device):
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "_compile_kernel", make, raising=False)
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    cuda_source._compiled.cache_clear()
    macros = {"BITS": "8", "UNIT": "64", "BF16": "0"}
    values = {name: number for number, name in enumerate(fields(source("gather.cu")))}
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        compiled("gather.cu", "gather_matrix", macros, device, shared_bytes=1024)(3, 256, values)
    cuda_source._compiled.cache_clear()
    options = ["--std=c++17", "-DBITS=8", "-DUNIT=64", "-DBF16=0"]
    assert made == [(device, "gather_matrix", options) for device in ("cuda:0", "cuda:1")]
    expected = [*range(len(values)), 0]
    assert launched == [(d, (3, 1, 1), (256, 1, 1), expected) for d in ("cuda:0", "cuda:1", "cuda:0")]


def test_for_another_gpu_nvcc_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unsupported, match="compiled by nvcc: install the CUDA toolkit"):
        compiled("gather.cu", "gather_matrix", {}, "cuda:0", capability=(8, 0))
