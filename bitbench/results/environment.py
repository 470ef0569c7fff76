"""The machine a record came from. Two records are pooled only where `pool_key` is equal."""

import hashlib

from bitbench.facts.frozen import Frozen


class Gpu(Frozen):
    """One NVIDIA GPU by NVML. Unknown is None."""

    name: str
    uuid_hash: str
    driver: str
    compute_capability: str | None = None
    memory_bytes: int | None = None
    power_limit_w: float | None = None
    max_sm_clock_hz: float | None = None
    max_memory_clock_hz: float | None = None


class Environment(Frozen):
    """Hardware, system and library versions. `machine` is a hash, so that records do not carry a host's name.

    `last_level_cache_bytes` is the measured device's: a GPU's L2 where there is a GPU. `machine.collect` fills it all.
    """

    machine: str
    system: str
    python: str
    cpu: str
    num_cpus: int
    memory_bytes: int
    last_level_cache_bytes: int | None = None
    gpu: Gpu | None = None
    versions: dict[str, str]

    @property
    def device_name(self) -> str:
        """The GPU's name, or the CPU's."""
        return self.gpu.name if self.gpu else self.cpu

    @property
    def pool_key(self) -> str:
        """Equal for records of one machine, one driver and one set of library versions.

        Memory is left out: a virtual machine that gives memory on demand shows another total after each large process.
        """
        return hashlib.sha256(self.model_dump_json(exclude={"memory_bytes"}).encode()).hexdigest()[:12]
