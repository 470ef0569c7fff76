"""The sources of the CUDA kernels as single texts, and their compiler, NVRTC, which comes with torch."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bitbench.facts.errors import Unsupported

FOLDER = Path(__file__).parent / "kernels" / "step"
BULK_COPIES = (9, 0)
"""The compute capability from which an engine copies whole blocks of memory."""
Arguments = Mapping[str, Any]
"""A kernel's arguments by their names: tensors on its device, and integers."""
_FIELD = re.compile(r"FIELD\([^,]+, (\w+)\)")
_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)


def source(name: str, capability: tuple[int, int] = BULK_COPIES, device: Path | None = None) -> str:
    """A file with those it includes in their places, for GPUs of this compute capability. `device` stands for another
    device.cuh than the GPU's.
    """
    hardware = FOLDER / ("sm_90" if capability >= BULK_COPIES else "sm_80")

    def path(name: str) -> Path:
        if device and name == "device.cuh":
            return device
        return FOLDER / name if (FOLDER / name).exists() else hardware / name

    def included(match: re.Match[str]) -> str:
        return _INCLUDE.sub(included, _text(path(match[1])))

    return _INCLUDE.sub(included, _text(path(name)))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def fields(text: str) -> tuple[str, ...]:
    """The names of a kernel's arguments, in order."""
    return tuple(_FIELD.findall(text))


@dataclass(frozen=True, slots=True)
class Kernel:
    """Compiled for a device: called with how many blocks and threads of each, and the arguments by their names."""

    device: str
    names: tuple[str, ...]
    shared_bytes: int
    run: Any

    def __call__(self, blocks: int, threads: int, arguments: Arguments) -> None:
        """Only launches."""
        import torch

        given = [*(arguments[name] for name in self.names), 0]  # the last only ends the list
        with torch.cuda.device(self.device):
            self.run((blocks, 1, 1), (threads, 1, 1), given, self.shared_bytes)


def compiled(
    file: str,
    name: str,
    macros: Mapping[str, str],
    device: str,
    *,
    shared_bytes: int = 0,
    capability: tuple[int, int] | None = None,
) -> Kernel:
    """The kernel `name` of a file, with so many bytes of dynamic shared memory; compiled once a process. Another
    `capability` than the device's is an earlier one's, whose code the device runs, too; that needs nvcc.
    """
    return _compiled(file, name, tuple(macros.items()), device, shared_bytes=shared_bytes, capability=capability)


@cache
def _compiled(
    file: str,
    name: str,
    macros: tuple[tuple[str, str], ...],
    device: str,
    *,
    shared_bytes: int,
    capability: tuple[int, int] | None,
) -> Kernel:
    import torch

    own = torch.cuda.get_device_capability(device)
    text, options = source(file, capability or own), ["--std=c++17", *(f"-D{key}={value}" for key, value in macros)]
    with torch.cuda.device(device):
        if capability in (None, own):
            run = torch.cuda._compile_kernel(text, name, nvcc_options=options)
        else:
            run = _translated(text, name, capability, options)
        if shared_bytes:
            run.set_shared_memory_config(shared_bytes)
    return Kernel(device, fields(text), shared_bytes, run)


def _translated(text: str, name: str, capability: tuple[int, int], options: Sequence[str]) -> Any:
    """By way of PTX for an earlier GPU, which the driver translates for the current one. Raises Unsupported."""
    from torch.cuda._utils import _cuda_load_module

    if not shutil.which("nvcc"):
        raise Unsupported("a kernel for another GPU than this one is compiled by nvcc: install the CUDA toolkit")
    with TemporaryDirectory() as folder:
        (Path(folder) / "kernel.cu").write_text(text, encoding="utf-8")
        architecture = "-arch=compute_{}{}".format(*capability)
        subprocess.run(["nvcc", "-ptx", architecture, *options, "kernel.cu"], cwd=folder, check=True)
        ptx = (Path(folder) / "kernel.ptx").read_bytes()
    return _cuda_load_module(ptx, [name])[name]
