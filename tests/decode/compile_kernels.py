"""Compiles every Triton kernel of the decode steps for GPUs that are not here: run by test_triton_compiles.py.

What is compiled is what is launched: launches of a step are recorded, and compiled with the types they were given.
`python -m tests.decode.compile_kernels CAPABILITY:FOLDER:METHOD:BATCH ...`, where 75 is capability 7.5, prints a line
for each kernel: the capability, its name, the format of what it multiplies, bytes of shared memory, of stack, the case.
"""

import re
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from bitbench.decode import load
from bitbench.decode.triton_steps import TritonSteps
from bitbench.decode.tuning import defaults

TYPES = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32",
    torch.uint8: "*u8", int: "i32", float: "fp32",
}  # fmt: skip
SIZES = ("INPUTS", "ELEMENTS", "num_rows", "batch")
OPTIONS = ("num_warps", "num_stages")


def recorded(steps: TritonSteps) -> dict[str, tuple[JITFunction, dict[str, Any], dict[str, int]]]:
    """The launches of one step: kernel, arguments by name, options. Of those that differ only in sizes, one."""
    found = {}

    def record(self, *args, grid, warmup, **options):
        arguments = dict(zip(self.arg_names, args, strict=False)) | {
            name: value for name, value in options.items() if name not in OPTIONS
        }
        chosen = {name: options[name] for name in OPTIONS if name in options}
        kinds = {
            name: value.dtype if isinstance(value, torch.Tensor) else value
            for name, value in arguments.items()
            if name not in SIZES
        }
        found[f"{self.__name__} {kinds}"] = (self, arguments, chosen)

    JITFunction.run, before = record, JITFunction.run
    try:
        steps.launch()
    finally:
        JITFunction.run = before
    return found


def compiled(function: JITFunction, arguments: dict[str, Any], options: dict[str, int], capability: int) -> Any:
    """Down to a cubin, specialized as Triton launches it: None and 1 are constants, tensors start at multiples
    of 16 bytes, and other integers may be multiples of 16.
    """
    constants = {p.name for p in function.params if p.is_constexpr}
    constants |= {n for n, v in arguments.items() if v is None or (type(v) is int and v == 1)}
    signature, attributes = {}, {}
    for number, name in enumerate(function.arg_names):
        value = arguments[name]
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value)
        signature[name] = "constexpr" if name in constants else TYPES[kind]
        whole = type(value) is int and value % 16 == 0
        if name not in constants and (whole or isinstance(value, torch.Tensor)):
            attributes[(number,)] = [["tt.divisibility", 16]]
    constexprs = {(function.arg_names.index(name),): arguments[name] for name in constants}
    source = ASTSource(function, signature, constexprs, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def stack_bytes(cubin: bytes) -> int:
    """What a thread keeps outside registers, by NVIDIA's cuobjdump, which comes with Triton."""
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", told.stdout + told.stderr)[1])


def main() -> None:
    """See the module."""
    seen = set()
    for case in sys.argv[1:]:
        told, folder, method, batch = case.split(":")
        capability = int(told)
        decoder = load(Path(folder), method)
        tuning = defaults((capability // 10, capability % 10))
        steps = TritonSteps(decoder.forward, "cpu", 256, int(batch), tuning=tuning, multiprocessors=40)
        for key, (function, arguments, options) in recorded(steps).items():
            if (capability, key) in seen:
                continue
            seen.add((capability, key))
            kernel = compiled(function, arguments, options, capability)
            kind, stack = arguments.get("FORMAT", "-"), stack_bytes(kernel.asm["cubin"])
            print(capability, function.__name__, kind, kernel.metadata.shared, stack, case, sep=",")


if __name__ == "__main__":
    main()
