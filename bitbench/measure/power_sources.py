"""Where a look at a device's power comes from: NVML for a GPU, RAPL and cpufreq for a processor, nothing elsewhere."""

import time
from pathlib import Path
from typing import Protocol

from bitbench.facts import host, nvml
from bitbench.facts.samples import PowerSample

THROTTLE_BITS = {
    0x04: "sw_power_cap",
    0x08: "hw_slowdown",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake",
}
"""nvmlClocksEventReason* of nvml.h that mean a busy GPU is held below its clock by power or heat.

Left out: gpu_idle (0x01), which is no work; applications_clocks_setting (0x02), sync_boost (0x10) and
display_clock_setting (0x100), which are settings that hold for every sample alike (doctor names them); and reliability
(0x400), which is set whenever the GPU runs at its highest voltage.
"""
SETTING_BITS = {0x02: "applications_clocks_setting", 0x10: "sync_boost", 0x100: "display_clock_setting"}
"""Reasons that are settings of the machine, from nvml.h."""

_CLOCK_SM, _CLOCK_MEMORY = 1, 2  # nvmlClockType_t
_TEMPERATURE_GPU = 0  # nvmlTemperatureSensors_t
_MHZ, _MILLI, _KHZ, _MICRO = 1e6, 1e-3, 1e3, 1e-6
_POWERCAP = Path("/sys/class/powercap")
_CPUS = Path("/sys/devices/system/cpu")
_FULL_LOOK_EVERY = 4
_MAX_CLOCKS_READ = 8  # a file each; a mean over some CPUs is enough


class PowerSource(Protocol):
    """`changes` is False where looking twice would tell nothing more than looking once."""

    changes: bool

    def look(self) -> PowerSample:
        """One sample, now (CLOCK_MONOTONIC). Never raises."""


class NoSource:
    """A device that nothing can be read of: samples carry the time alone."""

    changes = False

    def look(self) -> PowerSample:
        """The time."""
        return PowerSample(at_s=time.monotonic())


class NvmlSource:
    """A GPU by NVML."""

    changes = True

    def __init__(self, device: nvml.NvmlDevice) -> None:
        self._device = device
        self._num_looks = 0

    def look(self) -> PowerSample:
        """What decides whether a sample counts, and the energy counter, which is read first, next to the time.

        Every call holds up the driver, and with it an engine that launches kernels through it, so what changes slowly
        or not at all is asked for in one look of `_FULL_LOOK_EVERY` only.
        """
        ask = self._device.ask
        at_s, energy_mj = time.monotonic(), ask("TotalEnergyConsumption")
        brief = PowerSample(
            at_s=at_s,
            energy_j=_scaled(energy_mj, _MILLI),
            sm_clock_hz=_scaled(ask("ClockInfo", _CLOCK_SM), _MHZ),
            throttle_reasons=reason_names(reason_bits(self._device), THROTTLE_BITS),
        )
        self._num_looks += 1
        if self._num_looks % _FULL_LOOK_EVERY != 1:
            return brief
        slow = {
            "power_w": _scaled(ask("PowerUsage"), _MILLI),
            "memory_clock_hz": _scaled(ask("ClockInfo", _CLOCK_MEMORY), _MHZ),
            "temperature_c": _scaled(ask("Temperature", _TEMPERATURE_GPU), 1.0),
        }
        return brief.model_copy(update=slow)


class CpuSource:
    """A processor: RAPL energy of all packages and the mean clock, as far as they are readable."""

    def __init__(self, powercap: Path = _POWERCAP, cpus: Path = _CPUS) -> None:
        self._packages = [package for package in _packages(powercap) if package.energy_j() is not None]
        some = (cpus / f"cpu{n}/cpufreq/scaling_cur_freq" for n in host.usable_cpus()[:_MAX_CLOCKS_READ])
        self._clocks = [path for path in some if _read_int(path) is not None]
        self.changes = bool(self._packages or self._clocks)

    def look(self) -> PowerSample:
        """Energy and mean clock. A package that can't be read any more makes the energy unknown."""
        at_s = time.monotonic()
        energies = [package.energy_j() for package in self._packages]
        clocks = [clock for path in self._clocks if (clock := _read_int(path)) is not None]
        known = [energy for energy in energies if energy is not None]
        return PowerSample(
            at_s=at_s,
            energy_j=sum(known) if known and len(known) == len(energies) else None,
            sm_clock_hz=sum(clocks) / len(clocks) * _KHZ if clocks else None,
        )


class _Package:
    """One RAPL counter, which starts again at zero after `max_energy_range_uj`."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range_uj = _read_int(folder / "max_energy_range_uj")
        self._last_uj: int | None = None
        self._turns = 0

    def energy_j(self) -> float | None:
        """The counter with its turns added; None where it can't be read (since 2020 only root may)."""
        now_uj = _read_int(self._counter)
        if now_uj is None or self._range_uj is None:
            return None
        if self._last_uj is not None and now_uj < self._last_uj:
            self._turns += 1
        self._last_uj = now_uj
        return (now_uj + self._turns * self._range_uj) * _MICRO


def source_of(device: str) -> PowerSource:
    """The source of `cuda:N`, `cpu` or anything else. Never raises: what can't be read is watched by NoSource."""
    if device == "cpu":
        return CpuSource()
    if device.startswith("cuda"):
        found = nvml.open_device(device)
        if found is not None:
            return NvmlSource(found)
    return NoSource()


def reason_bits(device: nvml.NvmlDevice) -> int:
    """NVML's bits of why the clocks are what they are now; 0 where unknown."""
    bits = device.ask("CurrentClocksEventReasons")
    if bits is None:  # the name before driver 535
        bits = device.ask("CurrentClocksThrottleReasons")
    return int(bits or 0)


def reason_names(bits: int, table: dict[int, str]) -> tuple[str, ...]:
    """Names of the bits that are set and in `table`, in its order."""
    return tuple(name for bit, name in table.items() if bits & bit)


def _packages(powercap: Path) -> list[_Package]:
    """Top-level packages only: their sub-zones, psys and the MMIO twin would count the same joules again."""
    found = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (folder / "name").read_text().strip()
        except OSError:
            continue
        if folder.name.count(":") == 1 and name.startswith("package"):
            found.append(_Package(folder))
    return found


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit
