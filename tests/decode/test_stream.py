"""Streams hold every row once, in the order in which the kernel reads them, and mean what the matrices mean."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import bitbench.decode
from bitbench.decode import load
from bitbench.decode.stream import GRANULE, row_order, streams
from tests.decode.test_decoder import write_awq
from tests.engines.tiny import write_tiny

BLOCKS = 5


def read_row(data, bits, inputs, group):
    """A row from the bytes of a stream as kernels/step.cu reads it; and how many bytes it takes."""
    if bits == 16:
        return np.frombuffer(data[: 2 * inputs], np.float16).astype(np.float32), 2 * inputs
    if bits == 8:
        scale = np.frombuffer(data[inputs : inputs + 4], np.float32)[0]
        return (np.frombuffer(data[:inputs], np.uint8).astype(np.float32) - 128) * scale, inputs + 16
    words = np.frombuffer(data[: inputs // 2], np.uint32)
    values = np.empty((len(words), 8), np.float32)
    for i in range(4):  # the kernel's lop3: nibbles i and i + 4 are the halves of a word
        two = (words >> (4 * i)) & 0x000F000F
        values[:, 2 * i], values[:, 2 * i + 1] = two & 0xFFFF, two >> 16
    ends = np.frombuffer(data[inputs // 2 : inputs // 2 + inputs // group * 4], np.float16).astype(np.float32)
    scale, zero = (np.repeat(part, group) for part in (ends[0::2], ends[1::2]))
    return scale * (values.reshape(-1) - zero), inputs // 2 + -(-(inputs // group * 4) // 16) * 16


def read_all(packed, plan, group):
    """Rows of each matrix in the order of `plan`, (rows, pair, inputs, bits) each, gathered from all blocks."""
    found = [[] for _ in plan]
    for block in range(BLOCKS):
        data, at = packed[block].numpy().tobytes(), 0
        for number, (rows, pair, inputs, bits) in enumerate(plan):
            groups = rows // pair
            count = (groups * (block + 1) // BLOCKS - groups * block // BLOCKS) * pair
            for _ in range(count):
                row, size = read_row(data[at:], bits, inputs, group)
                found[number].append(row)
                at += size
        assert not any(data[at:]), "padding is zero"
    return [torch.from_numpy(np.stack(rows)) for rows in found]


@pytest.mark.parametrize("method", ["fp16", "int8-wo", "awq-int4", "awq-int4-head8"])
def test_streams_mean_what_the_matrices_mean(tmp_path, method):
    source = write_tiny(tmp_path / "tiny", "Qwen2", tie_word_embeddings=True)
    folder = source
    if method.startswith("awq"):
        folder = tmp_path / "awq"
        write_awq(folder, source)
    decoder = load(folder, method)
    weights, config = decoder.forward.weights, decoder.config
    bits = {"fp16": 16, "int8-wo": 8}.get(method, 4)
    head_bits = 16 if method in ("fp16", "awq-int4") else 8
    matrices, plan = [], []
    for layer in weights.layers:
        for name, pair in (("qkv", 2), ("o", 1), ("gate_up", 2), ("down", 1)):
            matrix = getattr(layer, name)
            dense = matrix.dequantized()
            matrices.append(dense[row_order(config)[name]] if pair == 2 else dense)
            plan.append((matrix.shape[0], pair, matrix.shape[1], bits))
    matrices.append(weights.head.dequantized())
    plan.append((*weights.head.shape[:1], 1, weights.head.shape[1], head_bits))
    packed, granules = streams(weights, config, BLOCKS)
    ends = [int(row.nonzero().max()) for row in packed]
    assert all((n - 1) * GRANULE - 64 <= end < n * GRANULE for n, end in zip(granules.tolist(), ends, strict=True))
    assert packed.shape[0] == BLOCKS and packed.shape[1] % GRANULE == 0
    for matrix, read in zip(matrices, read_all(packed, plan, config.group_size or 1), strict=True):
        # The kernel's q x scale and (q - zero) x scale are the matrix's own, in float32.
        assert torch.equal(read, matrix)


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
@pytest.mark.parametrize(("bits", "head_bits"), [(16, 16), (8, 8), (4, 16), (4, 8)])
def test_the_step_kernel_compiles_without_spilling(tmp_path, bits, head_bits):
    sizes = {
        "HIDDEN": 896,
        "INTER": 4864,
        "LAYERS": 24,
        "HEADS": 14,
        "KV_HEADS": 2,
        "HEAD_DIM": 64,
        "VOCAB": 151936,
        "EPS": "1e-6",
        "QKV_BIAS": 1,
        "QK_NORM": 0,
        "GROUP": 128,
        "BITS": bits,
        "HEAD_BITS": head_bits,
    }
    source = Path(bitbench.decode.__file__).parent / "kernels/step.cu"
    command = ["nvcc", "-std=c++17", "-arch=sm_90", "-cubin", "-Xptxas", "-v", str(source), "-o", str(tmp_path / "k")]
    done = subprocess.run(
        [*command, *(f"-D{name}={value}" for name, value in sizes.items())], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr
