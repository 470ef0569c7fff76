"""Datasheet and measured figures of GPUs, from `data/gpus.csv`: one row a GPU, its sources in the row's note.

Datasheet figures are leads: where `measured_read_bytes_per_s` is known it is what reads really reach.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

GB = 10**9  # memory and bandwidth are sold in powers of ten,
MIB = 2**20  # caches are built in powers of two
TERA = 10**12


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU in SI units; unknown or absent is None.

    Rates are dense (no sparsity). `nvml_names` are the names the driver reports for exactly this card: variants that
    share a name's beginning (Laptop, Ti, NVL, PCIe, MIG slices) are other hardware.
    """

    name: str
    nvml_names: tuple[str, ...]
    compute_capability: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    fp16_dense_flop_per_s: float
    int8_dense_op_per_s: float | None
    fp8_dense_flop_per_s: float | None
    l2_bytes: int
    num_sms: int
    measured_read_bytes_per_s: float | None
    note: str


@cache
def gpus() -> tuple[GpuFacts, ...]:
    """The whole table."""
    lines = (files("bitbench.facts") / "data" / "gpus.csv").read_text(encoding="utf-8").splitlines()
    return tuple(_parse(row) for row in csv.DictReader(lines))


def find(name: str) -> GpuFacts | None:
    """The GPU that NVML, torch or this table calls `name`, whatever its case; None where it is not in the table."""
    wanted = name.strip().casefold()
    for gpu in gpus():
        if wanted in (known.casefold() for known in (gpu.name, *gpu.nvml_names)):
            return gpu
    return None


def _parse(row: dict[str, str]) -> GpuFacts:
    return GpuFacts(
        name=row["gpu"],
        nvml_names=tuple(row["nvml_names"].split("|")),
        compute_capability=row["compute_capability"],
        memory_bytes=int(float(row["memory_gb"]) * GB),
        bandwidth_bytes_per_s=float(row["bandwidth_gb_per_s"]) * GB,
        fp16_dense_flop_per_s=float(row["fp16_dense_tflops"]) * TERA,
        int8_dense_op_per_s=_known(row["int8_dense_tops"], TERA),
        fp8_dense_flop_per_s=_known(row["fp8_dense_tflops"], TERA),
        l2_bytes=int(float(row["l2_mb"]) * MIB),
        num_sms=int(row["num_sms"]),
        measured_read_bytes_per_s=_known(row["measured_read_gb_per_s"], GB),
        note=row["note"],
    )


def _known(text: str, unit: int) -> float | None:
    return float(text) * unit if text else None
