"""The processor and its caches, from the operating system's files. Unknown is None, or empty."""

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_CPUS = Path("/sys/devices/system/cpu")
_SIZES = {"K": 2**10, "M": 2**20, "G": 2**30}


def usable_cpus() -> tuple[int, ...]:
    """Numbers of the logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cpu_name() -> str:
    """The processor's model name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction set flags as Linux names them (`Features` on ARM)."""
    return frozenset((_cpuinfo("flags") or _cpuinfo("Features") or "").split())


def last_level_cache_bytes(cpus_folder: Path = _CPUS) -> int | None:
    """The highest level's caches of the usable CPUs, each counted once however many CPUs share it. Linux only."""
    caches: dict[tuple[int, str], int] = {}
    for cpu in usable_cpus():
        for index in (cpus_folder / f"cpu{cpu}" / "cache").glob("index*"):
            try:
                level, size, sharers, kind = (
                    (index / name).read_text().strip() for name in ("level", "size", "shared_cpu_list", "type")
                )
            except OSError:
                continue
            if kind != "Instruction":
                caches[int(level), sharers] = _parse_size(size)
    if not caches:
        return None
    last = max(level for level, _ in caches)
    return sum(size for (level, _), size in caches.items() if level == last)


def _parse_size(text: str) -> int:
    return int(text[:-1]) * _SIZES[text[-1]] if text[-1] in _SIZES else int(text)


def _cpuinfo(field: str) -> str | None:
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return None
