"""Which GPUs multiply 4-bit integers in their tensor cores? Asks NVIDIA's own compiler.

Compiles kernels with a single matrix multiply on 4-bit (s4) or 8-bit (s8) integers for each architecture and counts the
machine instructions (SASS) that come out. Needs nvcc and nvdisasm, and no GPU:

    pip install nvidia-cuda-nvdisasm
    python scripts/instruction_counts.py            # writes results/instructions.json

The file holds `tools` (versions), `command`, `sources` (name of the probe -> the whole CUDA source) and `results`, a
list of `probe`, `arch`, `outcome`, `instructions` (all of the kernel but NOP), `tensor_core` (opcode -> number),
`opcodes` (all, opcode -> number), `calls` (routines the kernel calls) and `message` (the assembler's, where it
refuses). Outcomes: `native`, a tensor core instruction takes the type; `emulated`, others do its work; `refused`, it
does not assemble.
"""

import argparse
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sass

OUT = Path(__file__).resolve().parent.parent / "results" / "instructions.json"
ARCHS = ("sm_75", "sm_80", "sm_89", "sm_90", "sm_100")
WARP = 32


@dataclass(frozen=True, slots=True)
class Probe:
    """`mma.sync` of one shape on one type. The numbers are 32-bit registers per thread, from the PTX manual."""

    bits: int
    shape: str
    num_a: int
    num_b: int
    num_d: int

    name = property(lambda self: f"mma.sync s{self.bits} {self.shape}")
    archs = ARCHS

    def source(self) -> str:
        """A kernel that loads the operands, multiplies once and stores the sum."""
        operands = {"a": self.num_a, "b": self.num_b, "d": self.num_d}
        loads = [
            f"  {'int' if name == 'd' else 'unsigned'} {name}{i} = {name}[threadIdx.x + {i * WARP}];"
            for name, count in operands.items()
            for i in range(count)
        ]
        numbers = iter(range(sum(operands.values())))
        d, a, b = ("{" + ", ".join(f"%{next(numbers)}" for _ in range(operands[name])) + "}" for name in "dab")
        outputs = ", ".join(f'"+r"(d{i})' for i in range(self.num_d))
        inputs = ", ".join(f'"r"({name}{i})' for name in "ab" for i in range(operands[name]))
        kind = f"s32.s{self.bits}.s{self.bits}.s32"
        lines = [
            'extern "C" __global__ void probe(const unsigned* a, const unsigned* b, int* d) {',
            *loads,
            f'  asm volatile("mma.sync.aligned.{self.shape}.row.col.{kind} {d}, {a}, {b}, {d};"',
            f"               : {outputs} : {inputs});",
            *(f"  d[threadIdx.x + {i * WARP}] = d{i};" for i in range(self.num_d)),
            "}",
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class WarpgroupProbe:
    """Hopper's own, wider instruction, which exists from sm_90a on and nowhere else."""

    bits: int
    shape: str

    name = property(lambda self: f"wgmma s{self.bits} {self.shape}")
    archs = ("sm_90a",)

    def source(self) -> str:
        """A kernel that multiplies two tiles of shared memory once and stores the sum."""
        kind = f"s32.s{self.bits}.s{self.bits}"
        return (
            'extern "C" __global__ void probe(unsigned long long a, unsigned long long b, int* d) {\n'
            "  int d0 = 0, d1 = 0, d2 = 0, d3 = 0;\n"
            f'  asm volatile("wgmma.mma_async.sync.aligned.{self.shape}.{kind} {{%0, %1, %2, %3}}, %4, %5, 0;"\n'
            '               : "+r"(d0), "+r"(d1), "+r"(d2), "+r"(d3) : "l"(a), "l"(b));\n'
            "  d[threadIdx.x] = d0 + d1 + d2 + d3;\n"
            "}\n"
        )


# Each 4-bit shape stands beside the 8-bit one with the same registers: only the multiply differs.
PROBES = (
    Probe(4, "m8n8k32", 1, 1, 2),
    Probe(8, "m8n8k16", 1, 1, 2),
    Probe(4, "m16n8k64", 4, 2, 4),
    Probe(8, "m16n8k32", 4, 2, 4),
    WarpgroupProbe(4, "m64n8k64"),
    WarpgroupProbe(8, "m64n8k32"),
)


def measure(probe: Probe | WarpgroupProbe, arch: str, nvcc: Path, nvdisasm: Path) -> dict[str, Any]:
    """Compile one probe for one architecture and count its instructions."""
    found: dict[str, Any] = {"probe": probe.name, "arch": arch}
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder, "probe.cu"), Path(folder, "probe.cubin")
        source.write_text(probe.source(), encoding="utf-8")
        done = subprocess.run(
            [nvcc, f"-arch={arch}", "-cubin", "-o", cubin, source], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return found | {"outcome": "refused", "message": refusal(done.stderr)}
        text = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout
    (kernel,) = sass.kernels(text.splitlines())
    return found | counts(kernel, probe.bits)


def refusal(stderr: str) -> str:
    """What the assembler says, without the names of temporary files. Anything else that fails is not an answer."""
    said = re.search(r"^ptxas .*?error\s*: (.*)$", stderr, re.MULTILINE)
    if not said:
        raise RuntimeError(f"nvcc failed:\n{stderr}")
    return said[1].strip()


def counts(kernel: sass.Kernel, bits: int) -> dict[str, Any]:
    """The figures of a kernel that should multiply integers of so many bits."""
    tensor = {opcode: n for opcode, n in sorted(kernel.opcodes.items()) if sass.is_tensor_core(opcode)}
    native = any(sass.is_int4(opcode) for opcode in tensor) if bits == 4 else bool(tensor)
    return {
        "outcome": "native" if native else "emulated",
        "instructions": kernel.num_instructions,
        "tensor_core": tensor,
        "opcodes": dict(sorted(kernel.opcodes.items())),
        "calls": kernel.calls,
    }


def main() -> None:
    """Compile and count every probe, write the file, print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", type=Path)
    parser.add_argument("--nvdisasm", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    nvcc, nvdisasm = sass.find_tool("nvcc", options.nvcc), sass.find_tool("nvdisasm", options.nvdisasm)
    ptxas = nvcc.parent / "ptxas"  # the one that nvcc runs lies beside it
    tools = {"nvcc": nvcc, "ptxas": ptxas if ptxas.is_file() else sass.find_tool("ptxas"), "nvdisasm": nvdisasm}
    results = []
    for probe in PROBES:
        for arch in probe.archs:
            found = measure(probe, arch, nvcc, nvdisasm)
            print(probe.name, arch, found["outcome"], found.get("tensor_core") or found.get("message"))
            results.append(found)
    record = {
        "tools": {name: sass.release(tool) for name, tool in tools.items()},
        "command": "nvcc -arch=ARCH -cubin",
        "sources": {probe.name: probe.source() for probe in PROBES},
        "results": results,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
