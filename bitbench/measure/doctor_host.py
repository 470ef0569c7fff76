"""What the operating system tells about the host that bears on measurements."""

import os
import time
from pathlib import Path

import psutil

from bitbench.facts import host
from bitbench.measure.finding import Finding
from bitbench.methods import cache

_LOOK_S = 0.5
_BUSY_PERCENT = 20  # of one CPU
_SHOWN_PROCESSES = 4
_STEAL_PERCENT = 2
_LOAD_PER_CPU = 0.3
_LITTLE_MEMORY_BYTES = 4 * 10**9  # loading and quantizing a 1B model needs about this much
_LITTLE_DISK_BYTES = 10 * 10**9  # two or three checkpoints of a 1B model
_FAST_16BIT_FLAGS = ("amx_bf16", "amx_fp16", "avx512_fp16", "avx512_bf16", "bf16", "asimdhp")
_CPUS = Path("/sys/devices/system/cpu")
_CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_PRODUCT = Path("/sys/class/dmi/id/product_name")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def examine_host() -> list[Finding]:
    """Findings about processor, load, memory, disk and virtualisation. Watches for half a second."""
    return [_processor(), _fast_16bit(), _governor(), *_activity(), _memory(), *_disks(), *_virtualisation()]


def _processor() -> Finding:
    usable, all_cpus = len(host.usable_cpus()), os.cpu_count() or 1
    state = f"{host.cpu_name()}, {usable} of {all_cpus} logical CPUs usable"
    if (cache := host.last_level_cache_bytes()) is not None:
        state += f", last-level cache {cache / 2**20:.0f} MiB"
    quota = _cpu_quota()
    if quota is not None and quota < usable:
        advice = "threads beyond the quota are stopped in turns: give the container whole CPUs (cpuset)"
        return Finding("processor", f"{state}, a quota of {quota:.1f}", "bad", advice)
    return Finding("processor", state)


def _cpu_quota() -> float | None:
    """CPUs' worth of time that cgroup v2 allows; None where it sets no limit."""
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _fast_16bit() -> Finding:
    flags = host.cpu_flags()
    fast = [flag for flag in _FAST_16BIT_FLAGS if flag in flags]
    if fast:
        return Finding("16-bit arithmetic", f"{', '.join(fast)} present")
    advice = "16-bit models are converted as they run: their CPU speeds say little about the format"
    return Finding("16-bit arithmetic", "no 16-bit instructions found", "note", advice)


def _governor() -> Finding:
    governors = set()
    for path in _CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            governors.add(path.read_text().strip())
        except OSError:
            continue
    if not governors:
        return Finding("CPU governor", "not visible here: the host or the firmware decides")
    state = ", ".join(sorted(governors))
    if governors == {"performance"}:
        return Finding("CPU governor", state)
    advice = "clocks follow the load, and host-bound rows with them: cpupower frequency-set -g performance (as root)"
    return Finding("CPU governor", state, "note", advice)


def _activity() -> list[Finding]:
    """Load, busy processes and time stolen by other virtual machines, over one half-second."""
    processes = [p for p in psutil.process_iter() if p.pid not in {0, os.getpid()}]
    psutil.cpu_times_percent()
    for process in processes:
        _cpu_percent(process)
    time.sleep(_LOOK_S)
    steal = getattr(psutil.cpu_times_percent(), "steal", 0.0)
    shares = sorted(((_cpu_percent(process), process) for process in processes), key=lambda pair: -pair[0])
    busy = [f"{_name(process)} {share:.0f}%" for share, process in shares if share >= _BUSY_PERCENT]
    return [_load(), _busy(busy), _stolen(steal)]


def _load() -> Finding:
    load, cpus = psutil.getloadavg()[0], len(host.usable_cpus())
    state = f"{load:.1f} over the last minute on {cpus} CPUs"
    if load > _LOAD_PER_CPU * cpus:
        return Finding("load", state, "note", "wait until other work has ended: it slows host-bound rows and CPU rows")
    return Finding("load", state)


def _busy(busy: list[str]) -> Finding:
    if not busy:
        return Finding("busy processes", "none")
    state = ", ".join(busy[:_SHOWN_PROCESSES]) + (" ..." if len(busy) > _SHOWN_PROCESSES else "")
    return Finding(
        "busy processes", state, "bad", "end them before measuring, or give bitbench CPUs of its own (taskset)"
    )


def _stolen(steal: float) -> Finding:
    state = f"{steal:.1f}% of the time taken by the hypervisor"
    if steal > _STEAL_PERCENT:
        return Finding("stolen time", state, "bad", "another virtual machine has this one's CPUs: use dedicated ones")
    return Finding("stolen time", state)


def _cpu_percent(process: psutil.Process) -> float:
    """Since the last call; 0 for a process that has ended or is another user's."""
    try:
        return float(process.cpu_percent())
    except psutil.Error:
        return 0.0


def _name(process: psutil.Process) -> str:
    try:
        return f"{process.name()} ({process.pid})"
    except psutil.Error:
        return f"process {process.pid}"


def _memory() -> Finding:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    state = (
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available, {swap.used / 1e9:.1f} GB swapped out"
    )
    if memory.available < _LITTLE_MEMORY_BYTES:
        return Finding(
            "memory", state, "note", "large models may not load: end other programs or choose a smaller model"
        )
    return Finding("memory", state)


def _disks() -> list[Finding]:
    places = (("disk, cache folder", cache.folder()), ("disk, this folder", Path.cwd()))
    return [_disk(topic, place) for topic, place in places]


def _disk(topic: str, folder: Path) -> Finding:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = psutil.disk_usage(str(existing)).free
    state = f"{free / 1e9:.1f} GB free at {folder}"
    if not os.access(existing, os.W_OK):
        return Finding(
            topic, f"{state}, not writable", "bad", "set XDG_CACHE_HOME or change to a folder you may write to"
        )
    if free < _LITTLE_DISK_BYTES:
        return Finding(topic, state, "note", "checkpoints may not fit: bitbench cache list shows what can go")
    return Finding(topic, state)


def _virtualisation() -> list[Finding]:
    found = []
    if "hypervisor" in host.cpu_flags():
        found.append(f"a virtual machine ({_product()})" if _product() else "a virtual machine")
    if any(mark.exists() for mark in _CONTAINER_MARKS) or "container" in os.environ:
        found.append("a container")
    if not found:
        return []
    advice = "neighbours that can't be seen from here share memory bandwidth: trust the interval between processes"
    return [Finding("runs in", " and ".join(found), "note", advice)]


def _product() -> str:
    try:
        return _PRODUCT.read_text().strip()
    except OSError:
        return ""
