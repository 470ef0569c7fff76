"""Compiled CUDA kernels as counts of instructions: finds NVIDIA's tools and reads what their disassemblers print."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

INSTALL = {
    "nvcc": "install NVIDIA's CUDA toolkit",
    "ptxas": "install NVIDIA's CUDA toolkit",
    "nvdisasm": "pip install nvidia-cuda-nvdisasm",
    "cuobjdump": "pip install nvidia-cuda-cuobjdump",
    "c++filt": "install binutils",
    "nm": "install binutils",
}

# nvdisasm opens a kernel with its section, cuobjdump with a line of its own. Routines that the kernel calls (such as
# the emulation of an instruction) lie in the kernel's section and are counted with it.
_KERNEL = re.compile(r"^(?:\s*\.section\s+\.text\.([^,\s]+)|\s*Function : (\S+))")
# An instruction: its address, perhaps a predicate, its opcode. The encoding (/* 0x... */) is no address.
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)")
_CALLED = re.compile(r"`\((\S+)\)")
_RELEASE = re.compile(r"V(\d+\.\d+\.\d+)")


@dataclass(slots=True)
class Kernel:
    """One kernel of a cubin: how often each opcode stands in it, and the routines it calls where they have names."""

    name: str
    opcodes: Counter[str] = field(default_factory=Counter)
    calls: list[str] = field(default_factory=list)

    @property
    def num_instructions(self) -> int:
        """All but NOP, which only fills the last cache line."""
        return self.opcodes.total() - self.opcodes["NOP"]


def kernels(lines: Iterable[str]) -> Iterator[Kernel]:
    """The kernels of a disassembly by `nvdisasm -c` or `cuobjdump -sass`, as they end."""
    current = None
    for line in lines:
        if opened := _KERNEL.match(line):
            if current:
                yield current
            current = Kernel(opened[1] or opened[2])
        elif current and (found := _INSTRUCTION.match(line)):
            current.opcodes[found[1]] += 1
            if found[1].startswith("CALL") and (called := _CALLED.search(found[2])):
                current.calls.append(called[1])
    if current:
        yield current


def is_tensor_core(opcode: str) -> bool:
    """HMMA, IMMA, IGMMA, UTCIMMA and the like. HFMA2.MMA is none: an ordinary FP16 multiply-add on another pipe."""
    return opcode.split(".", maxsplit=1)[0].endswith("MMA")


def is_int4(opcode: str) -> bool:
    """A tensor core instruction that takes 4-bit integers."""
    return is_tensor_core(opcode) and bool({"S4", "U4"} & set(opcode.split(".")))


def find_tool(name: str, given: Path | None = None, folders: Iterable[str] | None = None) -> Path:
    """The tool as given, from PATH or from an installed wheel. Ends the program with what to install otherwise."""
    if given is not None:
        if given.is_file():
            return given.resolve()
        sys.exit(f"{given} is not a file: give the path of {name}")
    if on_path := shutil.which(name):
        return Path(on_path)
    for folder in sys.path if folders is None else folders:
        for found in sorted(Path(folder).glob(f"nvidia/*/bin/{name}")):
            return found
    sys.exit(f"{name} not found: {INSTALL[name]}, or put it on PATH")


def release(tool: Path) -> str:
    """The version that one of NVIDIA's tools prints."""
    found = _RELEASE.search(subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout)
    return found[1] if found else "unknown"
