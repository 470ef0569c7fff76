"""Look at this machine and write down what a record must say about it. No torch, no CUDA context.

Only what stays the same between two runs on one machine is kept: load, temperature and free memory would split pools.
"""

import hashlib
import platform
from pathlib import Path

import psutil

from bitbench.facts import gpus, host, nvml
from bitbench.facts.libraries import installed_versions
from bitbench.results.environment import Environment, Gpu

_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_MHZ = 1e6
_NVML_CLOCK_SM = 1  # nvmlClockType_t in nvml.h
_NVML_CLOCK_MEMORY = 2

FAKE = Environment(
    machine="fake",
    system="fake",
    python="fake",
    cpu="fake",
    num_cpus=1,
    memory_bytes=2**30,
    last_level_cache_bytes=2**20,
    versions={"fake": "1"},
)
"""What every run on the device `fake` carries, wherever it is made."""


def collect(device: str) -> Environment:
    """The environment of a run on `cpu`, `cuda:N` or `fake`.

    Raises ValueError for another device, and for a GPU that NVML does not know.
    """
    if device == "fake":
        return FAKE
    gpu = None if device == "cpu" else _gpu(device)
    return Environment(
        machine=_machine_hash(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        cpu=host.cpu_name(),
        num_cpus=len(host.usable_cpus()),
        memory_bytes=psutil.virtual_memory().total,
        last_level_cache_bytes=_gpu_cache_bytes(gpu) if gpu else host.last_level_cache_bytes(),
        gpu=gpu,
        versions=installed_versions(),
    )


def _machine_hash() -> str:
    """Hash of the system's own id; of the host's name where it has none."""
    for path in _MACHINE_IDS:
        try:
            identity = path.read_text().strip()
        except OSError:
            continue
        if identity:
            return _hash(identity)
    return _hash(platform.node())


def _hash(text: str) -> str:
    return hashlib.sha256(f"bitbench {text}".encode()).hexdigest()[:12]


def _gpu_cache_bytes(gpu: Gpu) -> int | None:
    """NVML does not tell the size of the L2 cache; our table does for the GPUs it knows."""
    facts = gpus.find(gpu.name)
    return facts.l2_bytes if facts else None


def _gpu(device: str) -> Gpu:
    found = nvml.open_device(device)
    if found is None:
        raise ValueError(f"no such GPU: '{device}' (no NVIDIA driver here, or fewer GPUs; see bitbench doctor)")
    capability = found.ask("CudaComputeCapability")
    memory = found.ask("MemoryInfo")
    return Gpu(
        name=found.ask_text("Name") or "unknown GPU",
        uuid_hash=_hash(found.ask_text("UUID") or ""),
        driver=nvml.as_text(found.ask_system("DriverVersion")) or "unknown",
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        memory_bytes=int(memory.total) if memory else None,
        power_limit_w=_scaled(found.ask("EnforcedPowerLimit"), 1e-3),
        max_sm_clock_hz=_scaled(found.ask("MaxClockInfo", _NVML_CLOCK_SM), _MHZ),
        max_memory_clock_hz=_scaled(found.ask("MaxClockInfo", _NVML_CLOCK_MEMORY), _MHZ),
    )


def _scaled(value: int | None, unit: float) -> float | None:
    return None if value is None else value * unit
