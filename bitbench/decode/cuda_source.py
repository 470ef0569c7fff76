"""The sources of the CUDA kernels as single texts, and their compiler, NVRTC, which comes with torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "kernels" / "step"
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


def compiled(text: str, kernel: str, macros: Mapping[str, str]) -> Any:
    """A kernel of the text for the current GPU, to be called with grid, block, arguments and bytes of shared memory."""
    import torch

    options = ["--std=c++17", *(f"-D{name}={value}" for name, value in macros.items())]
    return torch.cuda._compile_kernel(text, kernel, nvcc_options=options)
