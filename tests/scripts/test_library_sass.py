import json
import shutil
from pathlib import Path

import library_sass
import pytest
import sass

DATA = Path(__file__).resolve().parents[1] / "data"
needs_demangler = pytest.mark.skipif(shutil.which("c++filt") is None, reason="c++filt is not there")


def test_names_and_pointers():
    text = "void (anonymous namespace)::f<(int)4, g<__half> >(signed char const*, __half*, int)"
    assert library_sass.split(library_sass.without_templates(text)) == ("f", {"signed char*", "__half*"})
    assert library_sass.split("marlin::permute(int4 const*, int)") == ("permute", {"int4*"})
    assert library_sass.split("plain") == ("plain", set())


@needs_demangler
def test_instances_stand_together():
    found = list(sass.kernels((DATA / "sass-cuobjdump.txt").read_text(encoding="utf-8").splitlines()))
    dequantize, gemm = library_sass.summary(found)
    assert dequantize["kernel"] == "dequantize_weights"
    assert dequantize["instances_with"] == {"HMMA": 0, "IMMA": 0, "IMMA.S4": 0}
    assert gemm["kernel"] == "gemm_forward_4bit_cuda_m16n64k32"
    assert gemm["instances"] == gemm["instances_with"]["HMMA"] == 2
    assert gemm["opcodes"]["HMMA.16816.F32"] == gemm["opcodes"]["HMMA.16816.F32.BF16"] == 8
    assert "__half*" in gemm["pointers"] and "__nv_bfloat16*" in gemm["pointers"]


@needs_demangler
def test_empty_kernels_are_left_out():
    empty = sass.Kernel("_Z4stubv")
    empty.opcodes.update(["LDC", "EXIT", "BRA", "NOP", "NOP"])
    assert library_sass.summary([empty]) == []


def test_committed_record_is_small_and_names_its_files():
    text = library_sass.OUT.read_text(encoding="utf-8")
    assert len(text) < 100_000
    for library in json.loads(text)["libraries"]:
        assert library["archs"], library["label"]
        assert "/" not in library["file"]
        assert len(library["sha256"]) == 64
