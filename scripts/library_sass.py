"""What do the kernels of a compiled library multiply with? Counts their machine instructions (SASS), without a GPU.

    pip install nvidia-cuda-nvdisasm nvidia-cuda-cuobjdump
    pip download --no-deps autoawq-kernels==0.0.9 bitsandbytes==0.50.2      # wheels are zip files: unzip them
    python scripts/library_sass.py --arch sm_75 --arch sm_90 \\
        --library "autoawq-kernels 0.0.9=awq_ext.cpython-311-x86_64-linux-gnu.so" \\
        --library "bitsandbytes 0.50.2=bitsandbytes/libbitsandbytes_cuda130.so"

scripts/build_awq_kernels.py makes gptqmodel's libraries. Writes results/library-instructions.json: `tools` (versions)
and `libraries`, a list of `label`, `file`, `sha256`, `imports` (what it takes from cuBLAS) and `archs`: architecture ->
the kernels it holds for it. A kernel's instances (template arguments) stand together: `kernel`, `instances`,
`instructions` (of all together, but NOP), `instances_with` (FP16 or BF16 tensor core instructions: `HMMA`; 8- or 4-bit
integer ones: `IMMA`; those on 4-bit integers alone: `IMMA.S4`), `opcodes` (tensor core, bit, FP16 and conversion
instructions of all together) and `pointers` (types of what it reads and writes).
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sass

OUT = Path(__file__).resolve().parent.parent / "results" / "library-instructions.json"
EMPTY = 3
"""Instructions of a kernel without a body: set up the stack, EXIT, and a branch to itself behind it."""
_KEPT = ("LOP3", "PRMT", "HFMA2", "HADD2", "HMUL2", "I2F", "I2FP", "IDP")


def disassemble(library: Path, arch: str, cuobjdump: Path, nvdisasm: Path) -> list[sass.Kernel]:
    """Every kernel the library holds for one architecture. Streams: a library can be half a gigabyte of text."""
    environment = os.environ | {"NVDISASM_PATH": str(nvdisasm.parent)}  # cuobjdump runs nvdisasm
    command = [str(cuobjdump), "-arch", arch, "-sass", str(library)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout
        found = list(sass.kernels(process.stdout))
    if process.returncode:
        sys.exit(f"cuobjdump can't read {library}: is it a library with CUDA kernels?")
    return found


def demangled(names: Iterable[str]) -> list[str]:
    """C++ names as people write them, without namespaces nobody named and without template arguments."""
    done = subprocess.run(
        [sass.find_tool("c++filt")], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return [without_templates(line) for line in done.stdout.splitlines()]


def without_templates(name: str) -> str:
    """`void f<(int)4, g<int> >(float*)` -> `void f(float*)`."""
    name = name.replace("(anonymous namespace)::", "")
    while (shorter := re.sub(r"<[^<>]*>", "", name)) != name:
        name = shorter
    return name


def split(signature: str) -> tuple[str, set[str]]:
    """`void marlin::f(int4 const*, int)` -> its name without namespaces, and the types of its pointers."""
    head, _, arguments = signature.partition("(")
    types = (argument.replace("const", "").strip(") ") for argument in arguments.split(","))
    return head.split()[-1].rsplit("::", maxsplit=1)[-1], {t.replace(" *", "*") for t in types if t.endswith("*")}


def instance_kinds(kernel: sass.Kernel) -> set[str]:
    """The kinds of tensor core instructions that stand in a kernel."""
    tensor = [opcode for opcode in kernel.opcodes if sass.is_tensor_core(opcode)]
    kinds = {"HMMA" for opcode in tensor if opcode.startswith("H")}
    kinds |= {"IMMA" for opcode in tensor if opcode.startswith("I")}
    return kinds | {"IMMA.S4" for opcode in tensor if sass.is_int4(opcode)}


def summary(found: list[sass.Kernel]) -> list[dict[str, Any]]:
    """The kernels by name, their instances together. Empty ones are for another architecture and left out."""
    filled = [kernel for kernel in found if kernel.num_instructions > EMPTY]
    groups: dict[str, list[tuple[sass.Kernel, set[str]]]] = defaultdict(list)
    for kernel, signature in zip(filled, demangled(k.name for k in filled), strict=True):
        name, pointers = split(signature)
        groups[name].append((kernel, pointers))
    return [_group(name, members) for name, members in sorted(groups.items())]


def _group(name: str, members: list[tuple[sass.Kernel, set[str]]]) -> dict[str, Any]:
    opcodes: Counter[str] = sum((kernel.opcodes for kernel, _ in members), Counter())
    kinds = Counter(kind for kernel, _ in members for kind in instance_kinds(kernel))
    kept = {o: n for o, n in sorted(opcodes.items()) if sass.is_tensor_core(o) or o.split(".")[0] in _KEPT}
    return {
        "kernel": name,
        "instances": len(members),
        "instructions": sum(kernel.num_instructions for kernel, _ in members),
        "instances_with": {kind: kinds[kind] for kind in ("HMMA", "IMMA", "IMMA.S4")},
        "opcodes": kept,
        "pointers": sorted(set().union(*(pointers for _, pointers in members))),
    }


def imports(library: Path) -> list[str]:
    """The functions of cuBLAS and cuBLASLt that the library calls: products it does not compute itself."""
    command = [str(sass.find_tool("nm")), "-D", "--undefined-only", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted(set(re.findall(r"\bcublas\w+", text)))


def main() -> None:
    """Disassemble and count every library, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", action="append", required=True, metavar="[LABEL=]FILE")
    parser.add_argument("--arch", action="append", help="sm_75, sm_90, ... (default sm_90)")
    parser.add_argument("--cuobjdump", type=Path)
    parser.add_argument("--nvdisasm", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    cuobjdump = sass.find_tool("cuobjdump", options.cuobjdump)
    nvdisasm = sass.find_tool("nvdisasm", options.nvdisasm)
    libraries = []
    for argument in options.library:
        label, _, path = argument.rpartition("=")
        file = Path(path)
        if not file.is_file():
            sys.exit(f"{file} is not a file")
        held = {a: summary(disassemble(file, a, cuobjdump, nvdisasm)) for a in options.arch or ["sm_90"]}
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        archs = {arch: kernels for arch, kernels in held.items() if kernels}
        if not archs:
            sys.exit(f"{file} holds no kernels for {' or '.join(held)}")
        named = {"label": label or file.name, "file": file.name, "sha256": digest}
        libraries.append(named | {"imports": imports(file), "archs": archs})
        print(label or file.name, {arch: sum(k["instances"] for k in kernels) for arch, kernels in archs.items()})
    tools = {"cuobjdump": sass.release(cuobjdump), "nvdisasm": sass.release(nvdisasm)}
    options.out.write_text(json.dumps({"tools": tools, "libraries": libraries}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
