"""CUDA kernels on an emulated device: compiled for the CPU with emulator/device.cuh in place of the GPU's."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bitbench.decode.cuda_source import fields, source
from bitbench.decode.deal import down_parts
from bitbench.decode.decoder import Decoder
from bitbench.decode.geometry import Geometry
from bitbench.decode.step_kernel import StepKernel

HERE = Path(__file__).parent / "emulator"
COMPILER = shutil.which("g++") or shutil.which("clang++")
# Where the CPU has instructions for 16-bit floats, they halve the time; sums stay as they are written. Fortified jumps
# take one to another fiber's stack for a mistake.
OPTIONS = ("-std=c++17", "-O1", "-march=native", "-ffp-contract=off", "-w", "-shared", "-fPIC", "-U_FORTIFY_SOURCE")


def emulated(
    decoder: Decoder,
    room: int,
    num_blocks: int = 5,
    num_warps: int = 4,
    o_parts: int = 1,
    seed: int = 1,
    num_sequences: int = 1,
    num_granules: int = 12,
    capability: tuple[int, int] = (9, 0),
    num_down_parts: int | None = None,
) -> StepKernel:
    """A StepKernel whose launches run on the CPU, in an order drawn from `seed` and the number of the launch."""
    attending = 0 if o_parts > 1 else decoder.config.num_kv_heads
    parts = num_down_parts or down_parts(decoder.config, num_blocks - attending)[0]
    # A short ring goes round often.
    shape = Geometry(num_blocks, attending, o_parts, parts, num_warps, num_granules, num_sequences)
    kernel = StepKernel(decoder.forward, "cpu", room, shape, lambda _: None)
    run, seeds = compiled("step.cu", "run.cc", kernel.macros(), capability), count(seed)

    def launch(arguments: Mapping[str, Any]) -> None:
        assert run(arguments, num_blocks, next(seeds)) == 0, "blocks wait for one another"

    kernel.launch = launch
    return kernel


def compiled(
    name: str, runner: str, macros: Mapping[str, str], capability: tuple[int, int] = (9, 0)
) -> Callable[[Mapping[str, Any], int, int], int]:
    """A kernel's source with what runs it: called with the arguments by name, the number of blocks and a seed."""
    text = source(name, capability, HERE / "device.cuh")
    run = _library(text + (HERE / runner).read_text(encoding="utf-8"), tuple(macros.items())).run

    def call(arguments: Mapping[str, Any], blocks: int, seed: int) -> int:
        found: int = run(ctypes.byref(_struct({n: arguments[n] for n in fields(text)})), blocks, seed)
        return found

    return call


@cache
def _library(text: str, macros: tuple[tuple[str, str], ...]) -> ctypes.CDLL:
    with TemporaryDirectory() as folder:  # which a loaded library does not need
        (Path(folder) / "kernel.cc").write_text(text, encoding="utf-8")
        command = [COMPILER, *OPTIONS, *(f"-D{key}={value}" for key, value in macros), "kernel.cc", "-o", "kernel.so"]
        subprocess.run(command, cwd=folder, check=True)
        return ctypes.CDLL(f"{folder}/kernel.so")


def _struct(values: dict[str, Any]) -> ctypes.Structure:
    """The kernel's arguments as its source has them."""
    tensors = {name: isinstance(value, torch.Tensor) for name, value in values.items()}
    kinds = [(name, ctypes.c_void_p if tensors[name] else ctypes.c_int) for name in values]
    step = type("Arguments", (ctypes.Structure,), {"_fields_": kinds})
    return step(*(value.data_ptr() if tensors[name] else value for name, value in values.items()))
