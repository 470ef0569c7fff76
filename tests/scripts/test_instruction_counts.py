import json
import shutil
import sys

import instruction_counts
import pytest
import sass

RECORD = json.loads(instruction_counts.OUT.read_text(encoding="utf-8"))


def found(name: str) -> bool:
    try:
        sass.find_tool(name)
    except SystemExit:
        return False
    return True


needs_compiler = pytest.mark.skipif(
    shutil.which("nvcc") is None or not found("nvdisasm"), reason="nvcc and nvdisasm are not both there"
)


def test_record_holds_the_sources_of_this_script():
    assert RECORD["sources"] == {probe.name: probe.source() for probe in instruction_counts.PROBES}


def test_record_holds_every_probe_on_every_architecture():
    wanted = [(probe.name, arch) for probe in instruction_counts.PROBES for arch in probe.archs]
    assert [(r["probe"], r["arch"]) for r in RECORD["results"]] == wanted


def test_sums_of_the_record():
    for result in RECORD["results"]:
        if result["outcome"] != "refused":
            assert result["instructions"] == sum(n for o, n in result["opcodes"].items() if o != "NOP")


def test_refusal_leaves_out_temporary_names():
    said = (
        "ptxas /tmp/x.ptx, line 46; error   : Feature '.m16n8k64' requires .target sm_80 or higher\nptxas fatal : x\n"
    )
    assert instruction_counts.refusal(said) == "Feature '.m16n8k64' requires .target sm_80 or higher"


def test_another_failure_of_the_compiler_is_no_answer():
    with pytest.raises(RuntimeError, match="unsupported GNU version"):
        instruction_counts.refusal("error: unsupported GNU version")


def test_missing_compiler_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "argv", ["instruction_counts.py"])
    with pytest.raises(SystemExit, match=r"^nvcc not found: install NVIDIA's CUDA toolkit, or put it on PATH$"):
        instruction_counts.main()


@needs_compiler
@pytest.mark.parametrize(("arch", "outcome"), [("sm_75", "native"), ("sm_90", "emulated")])
def test_compiled_here_it_comes_out_as_recorded(arch, outcome):
    probe = instruction_counts.PROBES[0]
    nvcc = sass.find_tool("nvcc")
    measured = instruction_counts.measure(probe, arch, nvcc, sass.find_tool("nvdisasm"))
    (recorded,) = (r for r in RECORD["results"] if (r["probe"], r["arch"]) == (probe.name, arch))
    assert measured["outcome"] == recorded["outcome"] == outcome
    if sass.release(nvcc) == RECORD["tools"]["nvcc"]:
        assert measured == recorded
