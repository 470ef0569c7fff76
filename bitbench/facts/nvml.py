"""NVIDIA's management library (NVML), with each question answered or None. Never creates a CUDA context.

Any call may be refused, by an old driver, a virtual machine or a laptop card; a refusal is an unknown, not an error.
"""

import os
from typing import Any

_MIG_PREFIX = "MIG-"
_UUID_PREFIX = "GPU-"


class NvmlDevice:
    """One GPU as NVML sees it."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    def ask(self, function: str, *args: object) -> Any:
        """The answer of the NVML function called `nvmlDeviceGet<function>`, or None where it is refused or unknown."""
        return self._call("nvmlDeviceGet" + function, self._handle, *args)

    def ask_system(self, function: str) -> Any:
        """The answer of `nvmlSystemGet<function>`, or None."""
        return self._call("nvmlSystemGet" + function)

    def ask_text(self, function: str) -> str | None:
        """`ask` for a string: older bindings give bytes."""
        return as_text(self.ask(function))

    def _call(self, name: str, *args: object) -> Any:
        function = getattr(self._library, name, None)
        if function is None:  # bindings older than the question
            return None
        try:
            return function(*args)
        except self._library.NVMLError:
            return None


def as_text(answer: str | bytes | None) -> str | None:
    """An NVML string, which older bindings give as bytes."""
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer


def cuda_index(device: str) -> int:
    """1 for `cuda:1`, 0 for `cuda`. Raises ValueError for anything else."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise ValueError(f"not a CUDA device: '{device}' (give cuda or cuda:N)")
    return int(index or 0)


def open_device(device: str) -> NvmlDevice | None:
    """The GPU that CUDA calls `device`, CUDA_VISIBLE_DEVICES honoured; None without a driver or without that GPU.

    NVML counts GPUs by PCI address. So does CUDA where CUDA_DEVICE_ORDER is PCI_BUS_ID or all GPUs are alike.
    Raises ValueError where `device` is not of the form cuda:N.
    """
    index = cuda_index(device)
    library = _library()
    if library is None:
        return None
    try:
        handle = _visible_handle(library, index)
    except library.NVMLError:
        return None
    return None if handle is None else NvmlDevice(library, handle)


def device_names() -> tuple[str, ...]:
    """Names of all GPUs of the machine, CUDA_VISIBLE_DEVICES not regarded; empty without a driver."""
    library = _library()
    if library is None:
        return ()
    try:
        handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
        return tuple(as_text(library.nvmlDeviceGetName(handle)) or "" for handle in handles)
    except library.NVMLError:
        return ()


def _library() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()  # counted by the library: calling it again costs nothing
    except pynvml.NVMLError:
        return None
    return pynvml


def _visible_handle(library: Any, index: int) -> Any:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return library.nvmlDeviceGetHandleByIndex(index)
    entries = [entry.strip() for entry in visible.split(",")]
    entry = entries[index] if index < len(entries) else ""
    if entry.isdigit():
        return library.nvmlDeviceGetHandleByIndex(int(entry))
    if entry.startswith(_MIG_PREFIX):  # a slice has no clocks, power or energy of its own: ask the whole GPU
        return library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(library.nvmlDeviceGetHandleByUUID(entry))
    return _handle_by_uuid(library, entry) if entry.startswith(_UUID_PREFIX) else None


def _handle_by_uuid(library: Any, beginning: str) -> Any:
    """CUDA accepts the beginning of a UUID, NVML wants all of it."""
    for i in range(library.nvmlDeviceGetCount()):
        handle = library.nvmlDeviceGetHandleByIndex(i)
        if (as_text(library.nvmlDeviceGetUUID(handle)) or "").startswith(beginning):
            return handle
    return None
