"""Examine the machine: what makes measurements bad here, and what to do about it. Changes nothing, imports no torch."""

from bitbench.facts import nvml
from bitbench.measure.doctor_gpu import examine_gpu
from bitbench.measure.doctor_host import examine_host
from bitbench.measure.doctor_software import examine_software
from bitbench.measure.finding import Finding

__all__ = ["Finding", "examine"]


def examine(device: str) -> list[Finding]:
    """Findings about `cpu` or `cuda:N`, the device first, then the host, then the software. Takes about a second.

    Raises ValueError for another device. Works without an NVIDIA driver: that is a finding.
    """
    if device == "cpu":
        names = nvml.device_names()
        state = f"not used here: {', '.join(names)}" if names else "none (no NVIDIA driver found)"
        gpu = [Finding("GPU", state)]
    else:
        gpu = examine_gpu(device)
    return [*gpu, *examine_host(), *examine_software(device)]
