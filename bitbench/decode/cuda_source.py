"""The sources of the CUDA kernels as single texts, and their compiler, NVRTC, which comes with torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "kernels" / "step"
Arguments = Mapping[str, Any]
"""A kernel's arguments by their names: tensors on its device, and integers."""
_FIELD = re.compile(r"FIELD\([^,]+, (\w+)\)")
_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)


def source(name: str, folder: Path = FOLDER, device: Path | None = None) -> str:
    """A file with those it includes in their places. `device` stands for another device.cuh than the GPU's."""

    def included(match: re.Match[str]) -> str:
        name = match[1]
        return _INCLUDE.sub(included, _text(device if device and name == "device.cuh" else folder / name))

    return _INCLUDE.sub(included, _text(folder / name))


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


def compiled(file: str, name: str, macros: Mapping[str, str], device: str, shared_bytes: int = 0) -> Kernel:
    """The kernel `name` of a file, with so many bytes of dynamic shared memory; compiled once a process."""
    return _compiled(file, name, tuple(macros.items()), device, shared_bytes)


@cache
def _compiled(file: str, name: str, macros: tuple[tuple[str, str], ...], device: str, shared_bytes: int) -> Kernel:
    import torch

    text, options = source(file), ["--std=c++17", *(f"-D{key}={value}" for key, value in macros)]
    with torch.cuda.device(device):
        run = torch.cuda._compile_kernel(text, name, nvcc_options=options)
        if shared_bytes:
            run.set_shared_memory_config(shared_bytes)
    return Kernel(device, fields(text), shared_bytes, run)
