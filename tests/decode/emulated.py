"""The step kernel on an emulated device: compiled for the CPU with emulator/device.cuh in place of the GPU's."""

import ctypes
import shutil
import subprocess
from itertools import count
from pathlib import Path

import torch

from bitbench.decode.decoder import Decoder
from bitbench.decode.step_kernel import Geometry, StepKernel
from bitbench.decode.step_source import fields, source

HERE = Path(__file__).parent / "emulator"
COMPILER = shutil.which("g++") or shutil.which("clang++")


def emulated(
    decoder: Decoder,
    room: int,
    folder: Path,
    num_blocks: int = 5,
    num_warps: int = 4,
    o_parts: int = 1,
    seed: int = 1,
    num_sequences: int = 1,
) -> StepKernel:
    """A StepKernel whose launches run on the CPU, in an order drawn from `seed` and the number of the launch."""
    attending = 0 if o_parts > 1 else decoder.config.num_kv_heads
    # A short ring, that it goes round often.
    shape = Geometry(num_blocks, attending, o_parts, num_warps, 12, num_sequences)
    kernel = StepKernel(decoder.forward, "cpu", room, shape, lambda _: None)
    folder.mkdir(exist_ok=True)
    text = source(device=HERE / "device.cuh")
    library = folder / "emulated.so"
    (folder / "emulated.cc").write_text(text + (HERE / "run.cc").read_text(encoding="utf-8"), encoding="utf-8")
    options = [f"-D{name}={value}" for name, value in kernel.macros().items()]
    command = [COMPILER, "-std=c++17", "-O1", "-w", "-shared", "-fPIC", *options, "emulated.cc", "-o", library.name]
    subprocess.run(command, cwd=folder, check=True)
    run = ctypes.CDLL(str(library)).run
    seeds = count(seed)

    def launch(arguments) -> None:
        step = _struct({name: arguments[name] for name in fields(text)})
        assert run(ctypes.byref(step), num_blocks, next(seeds)) == 0, "blocks wait for one another"

    kernel.launch = launch
    return kernel


def _struct(values: dict) -> ctypes.Structure:
    """`struct Step` of the kernel."""
    tensors = {name: isinstance(value, torch.Tensor) for name, value in values.items()}
    kinds = [(name, ctypes.c_void_p if tensors[name] else ctypes.c_int) for name in values]
    step = type("Step", (ctypes.Structure,), {"_fields_": kinds})
    return step(*(value.data_ptr() if tensors[name] else value for name, value in values.items()))
