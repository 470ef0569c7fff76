"""The Triton kernels compile for GPUs of every supported generation, where there is none."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.decode.test_decoder import write_awq
from tests.engines.tiny import write_tiny

# Shared memory that a program can have, in bytes (CUDA C++ Programming Guide, table of compute capabilities).
SHARED = {75: 64 << 10, 80: 163 << 10, 89: 99 << 10, 90: 227 << 10}
SIZES = {"hidden_size": 896, "num_attention_heads": 14, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    write_tiny(base / "qwen2", "Qwen2", intermediate_size=1088, tie_word_embeddings=True, **SIZES)
    write_tiny(base / "qwen3", "Qwen3", intermediate_size=1000, head_dim=128, vocab_size=16_500, **SIZES)
    write_awq(base / "awq", base / "qwen2", group_size=64)
    return base


@pytest.mark.skipif(not find_spec("triton"), reason="needs triton")
@pytest.mark.parametrize("capabilities", [(75, 80), (89, 90)])
def test_every_kernel_compiles_without_spilling(folders, tmp_path, capabilities):
    cases = []
    for capability in capabilities:
        wide = "fp16" if capability < 80 else "bf16"
        of_it = [
            f"qwen3:{wide}:1",
            f"qwen3:{wide}:3",
            "awq:awq-int4-head8:1",
            "awq:awq-int4-head8:16",
            "qwen2:fp8-wo:3",
        ]
        cases += [f"{capability}:{folders}/{case}" for case in of_it]
    done = subprocess.run(
        [sys.executable, "-m", "tests.decode.compile_kernels", *cases],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [line.split(",") for line in done.stdout.splitlines()]
    for capability in map(str, capabilities):
        of_it = [one for one in told if one[0] == capability]
        assert {name for _, name, *_ in of_it} == {"_embed", "_add_norm", "_product", "_attend", "_join"}
        assert {kind for _, name, kind, *_ in of_it if name == "_product"} == {"16bit", "int8", "fp8", "int4"}
    for capability, name, kind, shared, stack, case in told:
        assert int(shared) <= SHARED[int(capability)], (name, kind, case)
        assert int(stack) == 0, (name, kind, case)
