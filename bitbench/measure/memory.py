"""Memory at three moments: after load, at its peak while loading, at its peak in the measured window."""

from pathlib import Path
from typing import Protocol

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
# Writing 5 resets the peak resident set (VmHWM): proc_pid_clear_refs(5).
_RESET_PEAK = "5"


class Meter(Protocol):
    """Bytes in use now and at most since the last reset; None where it can't be told."""

    source: str

    def used_bytes(self) -> int | None:
        """In use now."""

    def peak_bytes(self) -> int | None:
        """The most in use since `reset_peak`."""

    def reset_peak(self) -> None:
        """Start a new maximum."""


class CudaMeter:
    """Torch's allocator: bytes of live tensors on the device, without its cache and the CUDA context."""

    source = "torch.cuda allocator"

    def __init__(self, device: str) -> None:
        import torch

        torch.cuda.init()  # before the first tensor the allocator knows no device
        self._cuda, self._device = torch.cuda, torch.device(device)

    def used_bytes(self) -> int | None:
        """memory_allocated."""
        return int(self._cuda.memory_allocated(self._device))

    def peak_bytes(self) -> int | None:
        """max_memory_allocated."""
        return int(self._cuda.max_memory_allocated(self._device))

    def reset_peak(self) -> None:
        """reset_peak_memory_stats."""
        self._cuda.reset_peak_memory_stats(self._device)


class ResidentMeter:
    """The process's resident set, libraries included."""

    source = "resident set"

    def used_bytes(self) -> int | None:
        """VmRSS."""
        return _status_bytes("VmRSS")

    def peak_bytes(self) -> int | None:
        """VmHWM."""
        return _status_bytes("VmHWM")

    def reset_peak(self) -> None:
        """Ask the kernel to start VmHWM anew; without permission the peak stays that of the whole process."""
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
        except OSError:
            self.source = "resident set (peak of the whole process)"


class NoMeter:
    """For a device that has no memory: the fake one."""

    source = "none"

    def used_bytes(self) -> int | None:
        """Unknown."""
        return None

    def peak_bytes(self) -> int | None:
        """Unknown."""
        return None

    def reset_peak(self) -> None:
        """Nothing to reset."""


def meter(device: str) -> Meter:
    """The meter of a device: `cuda:0`, `cpu` or `fake`."""
    if device.startswith("cuda"):
        return CudaMeter(device)
    return NoMeter() if device == "fake" else ResidentMeter()


def _status_bytes(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None
