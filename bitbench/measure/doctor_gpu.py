"""What NVML tells about a GPU that bears on measurements."""

import os
from typing import Any

import psutil

from bitbench.facts import nvml
from bitbench.measure.finding import Finding
from bitbench.measure.power_sources import SETTING_BITS, THROTTLE_BITS, reason_bits, reason_names

_CLOCK_SM, _CLOCK_MEMORY = 1, 2  # nvmlClockType_t in nvml.h
_TEMPERATURE_GPU, _THRESHOLD_SLOWDOWN = 0, 1  # nvmlTemperatureSensors_t, nvmlTemperatureThresholds_t
_NEAR_SLOWDOWN_C = 10
_BUSY_PERCENT = 5
_IDLE_MEMORY_FRACTION = 0.05  # the driver and an idle desktop hold about this much


def examine_gpu(device: str) -> list[Finding]:
    """Findings about `cuda:N`; a single one where driver or GPU is missing. Raises ValueError for another name."""
    gpu = nvml.open_device(device)
    if gpu is None:
        names = nvml.device_names()
        state = f"no GPU called {device} (this machine has {len(names)})" if names else "no NVIDIA driver found"
        return [
            Finding("GPU", state, "bad", "install the NVIDIA driver, check CUDA_VISIBLE_DEVICES, or use --device cpu")
        ]
    found = [
        _identity(gpu),
        *_order(),
        _clocks(gpu),
        _power(gpu),
        _throttling(gpu),
        _temperature(gpu),
        _other_work(gpu),
        _memory(gpu),
        _mig(gpu),
        _ecc(gpu),
        _persistence(gpu),
    ]
    return [finding for finding in found if finding is not None]


def _identity(gpu: nvml.NvmlDevice) -> Finding:
    driver = nvml.as_text(gpu.ask_system("DriverVersion")) or "unknown"
    cuda = gpu.ask_system("CudaDriverVersion")  # 13000 is 13.0: cuda.h
    version = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "unknown"
    name = gpu.ask_text("Name") or "unknown GPU"
    return Finding("GPU", f"{name}, driver {driver}, which runs CUDA up to {version}")


def _order() -> list[Finding]:
    names = nvml.device_names()
    if len(set(names)) < 2 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return []
    state = f"unlike GPUs ({', '.join(names)}): CUDA may count them in another order than NVML"
    return [Finding("GPU order", state, "bad", "export CUDA_DEVICE_ORDER=PCI_BUS_ID")]


def _clocks(gpu: nvml.NvmlDevice) -> Finding:
    sm, sm_max = gpu.ask("ClockInfo", _CLOCK_SM), gpu.ask("MaxClockInfo", _CLOCK_SM)
    memory, memory_max = gpu.ask("ClockInfo", _CLOCK_MEMORY), gpu.ask("MaxClockInfo", _CLOCK_MEMORY)
    state = (
        f"SM {_of(sm, sm_max, 'MHz')}, memory {_of(memory, memory_max, 'MHz')} now (low clocks are normal when idle)"
    )
    settings = reason_names(reason_bits(gpu), SETTING_BITS)
    if settings:
        advice = "a setting holds the clocks: speeds are those of this setting; nvidia-smi -q -d CLOCK shows it"
        return Finding("clocks", f"{state}; held by {', '.join(settings)}", "note", advice)
    return Finding("clocks", state)


def _power(gpu: nvml.NvmlDevice) -> Finding | None:
    limit, default = gpu.ask("EnforcedPowerLimit"), gpu.ask("PowerManagementDefaultLimit")
    if limit is None:
        return None
    state = f"limit {limit / 1000:.0f} W" + (f", default {default / 1000:.0f} W" if default else "")
    if default and limit < default:
        advice = f"speeds are those of a limited GPU; the default is nvidia-smi -pl {default / 1000:.0f} (as root)"
        return Finding("power limit", state, "note", advice)
    return Finding("power limit", state)


def _throttling(gpu: nvml.NvmlDevice) -> Finding:
    reasons = reason_names(reason_bits(gpu), THROTTLE_BITS)
    if reasons:
        advice = "let it cool or raise its power; samples taken while throttled are flagged and left out of the median"
        return Finding("throttling", f"slowed now by {', '.join(reasons)}", "bad", advice)
    return Finding("throttling", "none now")


def _temperature(gpu: nvml.NvmlDevice) -> Finding | None:
    now = gpu.ask("Temperature", _TEMPERATURE_GPU)
    limit = gpu.ask("TemperatureThreshold", _THRESHOLD_SLOWDOWN)
    if now is None:
        return None
    state = f"{now} °C" + (f", slows down at {limit} °C" if limit else "")
    if limit and now > limit - _NEAR_SLOWDOWN_C:
        return Finding("temperature", state, "bad", "near the limit: better cooling, or wait between runs")
    return Finding("temperature", state)


def _other_work(gpu: nvml.NvmlDevice) -> Finding:
    processes = [p for p in gpu.ask("ComputeRunningProcesses") or [] if p.pid != os.getpid()]
    utilisation = gpu.ask("UtilizationRates")
    busy = utilisation is not None and utilisation.gpu > _BUSY_PERCENT
    state = ", ".join(_process(p) for p in processes) or "no other process"
    if utilisation is not None:
        state += f"; busy {utilisation.gpu}% of the last second"
    if processes or busy:
        advice = "end other work on the GPU before measuring" + (
            "" if processes else " (it is not visible from here: another container or virtual machine)"
        )
        return Finding("GPU processes", state, "bad", advice)
    return Finding("GPU processes", state)


def _process(process: Any) -> str:
    memory = getattr(process, "usedGpuMemory", None)
    size = f" with {memory / 1e9:.1f} GB" if memory else ""
    try:
        return f"{psutil.Process(process.pid).name()} ({process.pid}){size}"
    except psutil.Error:  # another container's process
        return f"process {process.pid}{size}"


def _memory(gpu: nvml.NvmlDevice) -> Finding | None:
    memory = gpu.ask("MemoryInfo")
    if memory is None:
        return None
    state = f"{memory.free / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if memory.used > _IDLE_MEMORY_FRACTION * memory.total:
        return Finding("GPU memory", state, "note", "something else holds GPU memory: large models may not fit")
    return Finding("GPU memory", state)


def _mig(gpu: nvml.NvmlDevice) -> Finding | None:
    mode = gpu.ask("MigMode")  # (current, pending)
    if mode is None or not mode[0]:
        return None
    advice = "a slice has a part of the bandwidth, and its neighbours share the power limit: name it beside the figures"
    return Finding("MIG", "on: the GPU is divided", "note", advice)


def _ecc(gpu: nvml.NvmlDevice) -> Finding | None:
    mode = gpu.ask("EccMode")  # (current, pending)
    if mode is None:
        return None
    return Finding("ECC", "on" if mode[0] else "off: a flipped bit goes unnoticed")


def _persistence(gpu: nvml.NvmlDevice) -> Finding | None:
    mode = gpu.ask("PersistenceMode")
    if mode is None:
        return None
    if mode:
        return Finding("persistence mode", "on")
    advice = "the driver unloads between processes, so each start is slow: nvidia-smi -pm 1 (as root)"
    return Finding("persistence mode", "off", "note", advice)


def _of(now: int | None, most: int | None, unit: str) -> str:
    return f"{'?' if now is None else now} of {'?' if most is None else most} {unit}"
