from collections import Counter
from pathlib import Path

import pytest
import sass

DATA = Path(__file__).resolve().parents[1] / "data"


def kernels(name: str) -> list[sass.Kernel]:
    return list(sass.kernels((DATA / name).read_text(encoding="utf-8").splitlines()))


def test_nvdisasm_native_multiply():
    native, _ = kernels("sass-nvdisasm.txt")
    assert native.name == "probe"
    assert native.num_instructions == 15
    assert native.opcodes["NOP"] == 1
    assert [o for o in native.opcodes if sass.is_tensor_core(o)] == ["IMMA.8832.S4.S4"]
    assert native.calls == []


def test_nvdisasm_counts_the_called_routine_with_its_kernel():
    _, emulated = kernels("sass-nvdisasm.txt")
    assert emulated.opcodes["IMMA.8816.S8.S8"] == 2
    assert emulated.calls == ["$__internal_0_$__cuda_sm_9x_mma_sub_byte_internal_m8n8k32_s4_s4"]


def test_cuobjdump_kernels_predicates_and_encodings():
    dequantize, gemm, gemm_bf16 = kernels("sass-cuobjdump.txt")
    assert dequantize.name == "_Z18dequantize_weightsI6__halfEvPiPT_S1_S3_iii"
    assert dequantize.opcodes["LOP3.LUT"] == 2  # both behind a predicate
    assert not any(map(sass.is_tensor_core, dequantize.opcodes))
    assert gemm.opcodes["HMMA.16816.F32"] == 8
    assert gemm.opcodes["UIADD3"] > 0
    assert gemm_bf16.opcodes == Counter({"HMMA.16816.F32.BF16": 8, "EXIT": 2})  # one EXIT behind a predicate


@pytest.mark.parametrize(
    ("opcode", "tensor", "int4"),
    [
        ("HMMA.16816.F32", True, False),
        ("IMMA.8832.S4.S4", True, True),
        ("IMMA.16864.U4.S4", True, True),
        ("IMMA.16832.S8.S8", True, False),
        ("IGMMA.64x8x32.S8.S8", True, False),
        ("HFMA2.MMA", False, False),
        ("LOP3.LUT", False, False),
    ],
)
def test_kinds_of_opcodes(opcode, tensor, int4):
    assert (sass.is_tensor_core(opcode), sass.is_int4(opcode)) == (tensor, int4)


def test_missing_tool_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^nvdisasm not found: pip install nvidia-cuda-nvdisasm, or put it on PATH$"):
        sass.find_tool("nvdisasm", folders=[])


def test_wrong_path_of_a_tool(tmp_path):
    with pytest.raises(SystemExit, match="give the path of nvdisasm"):
        sass.find_tool("nvdisasm", tmp_path / "nowhere")


def test_tool_of_an_installed_wheel(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "nvidia" / "cu13" / "bin" / "nvdisasm"
    tool.parent.mkdir(parents=True)
    tool.touch()
    assert sass.find_tool("nvdisasm", folders=[str(tmp_path)]) == tool
