"""A stand-in for pynvml: GPUs are dicts of answers, and a question without an answer is refused as NVML refuses it."""

import types
from collections.abc import Callable, Mapping, Sequence

import pytest


class NVMLError(Exception):
    """The base of what NVML raises."""


H200: dict[str, object] = {
    "Name": "NVIDIA H200",
    "UUID": "GPU-aaaa-1111",
    "CudaComputeCapability": (9, 0),
    "MemoryInfo": types.SimpleNamespace(total=150_000_000_000, free=149_000_000_000, used=1_000_000_000),
    "EnforcedPowerLimit": 700_000,
    "PowerManagementDefaultLimit": 700_000,
    "MaxClockInfo": lambda kind: {1: 1980, 2: 3201}[kind],
    "ClockInfo": lambda kind: {1: 345, 2: 3201}[kind],
    "PowerUsage": 76_500,
    "TotalEnergyConsumption": 12_345,
    "Temperature": 31,
    "TemperatureThreshold": 92,
    "CurrentClocksEventReasons": 0x01,
    "ComputeRunningProcesses": (),
    "UtilizationRates": types.SimpleNamespace(gpu=0, memory=0),
    "MigMode": (0, 0),
    "EccMode": (1, 1),
    "PersistenceMode": 1,
}
T4: dict[str, object] = {"Name": b"Tesla T4", "UUID": b"GPU-bbbb-2222"}

SYSTEM = {"DriverVersion": "580.159.04", "CudaDriverVersion": 13000}


def install(monkeypatch: pytest.MonkeyPatch, gpus: Sequence[Mapping[str, object]], driver: bool = True) -> None:
    """Put a fake pynvml with these GPUs, in PCI order, where `import pynvml` finds it."""

    def refuse(*_: object) -> object:
        raise NVMLError

    def by_index(index: int) -> Mapping[str, object]:
        return gpus[index] if index < len(gpus) else refuse()  # type: ignore[return-value]

    def question(name: str) -> Callable[..., object]:
        def ask(gpu: Mapping[str, object], *args: object) -> object:
            answer = gpu[name] if name in gpu else refuse()
            return answer(*args) if callable(answer) else answer

        return ask

    functions: dict[str, object] = {f"nvmlDeviceGet{name}": question(name) for name in H200}
    functions |= {f"nvmlSystemGet{name}": lambda value=value: value for name, value in SYSTEM.items()}
    functions |= {
        "NVMLError": NVMLError,
        "nvmlInit": (lambda: None) if driver else refuse,
        "nvmlDeviceGetCount": lambda: len(gpus),
        "nvmlDeviceGetHandleByIndex": by_index,
    }
    module = types.ModuleType("pynvml")
    module.__dict__.update(functions)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
