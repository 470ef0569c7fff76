"""A row of the table. Definitions of the figures are in `metrics.py`. Units are in the names; fractions 0-1; unknown is
None.
"""

from dataclasses import dataclass, field
from typing import Literal

from bitbench.facts.profile import Stage, StageProfile
from bitbench.facts.status import Flag, Status
from bitbench.results.cell_quality import CellQuality
from bitbench.results.environment import Environment
from bitbench.results.pool import Process
from bitbench.results.record import Ending
from bitbench.results.stats import Interval

TableKey = tuple[str, str, str, str, int, str]
"""Model, engine, workload (empty where only quality is known), device, batch size, environment."""


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """One row. A row whose status is not `ok` carries no speed.

    `process_tpots_s` are the per-process medians, from which comparisons are made. `num_failed` counts processes of
    the cell that failed while others went well, `failure` says how the first did.
    """

    model: str
    model_title: str
    method: str
    scheme: str
    weight_bits: float
    dtype: str
    engine: str
    kernel: str
    workload: str
    batch_size: int
    output_len: int
    device: str
    environment: Environment
    checkpoint_hash: str
    run_ids: tuple[str, ...]
    status: Status
    reason: str = ""
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()
    num_failed: int = 0
    failure: str = ""
    ending: Ending | None = None
    processes: tuple[Process, ...] = field(default=(), repr=False)

    num_processes: int = 0
    num_samples: int = 0
    num_throttled: int = 0
    prompt_len: float | None = None
    process_tpots_s: tuple[float, ...] = ()
    tpot_s: float | None = None
    ttft_s: float | None = None
    decode_tokens_per_s: float | None = None
    decode_tokens_per_s_interval: Interval | None = None
    spread_within: float | None = None
    spread_between: float | None = None
    generate_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    itl_clock: Literal["host", "device"] = "host"
    energy_j_per_token: float | None = None

    weights_bytes: int | None = None
    allocated_after_load_bytes: int | None = None
    load_peak_bytes: int | None = None
    peak_memory_bytes: int | None = None
    kv_cache_bytes: int | None = None

    bytes_per_step: int | None = None
    bandwidth_bytes_per_s: float | None = None
    ceiling_tokens_per_s: float | None = None
    mbu: float | None = None

    profiles: tuple[StageProfile, ...] = field(default=(), repr=False)
    node_gap_s: float | None = None
    matmul_flops_per_s: float | None = None

    quality: CellQuality | None = field(default=None, repr=False)
    pareto: bool | None = None

    baseline: str | None = None
    is_baseline: bool = False
    speedup: float | None = None
    speedup_interval: Interval | None = None
    memory_saved: float | None = None

    @property
    def is_16bit(self) -> bool:
        """Nothing is quantized: this row may be the baseline."""
        return self.weight_bits == 16

    @property
    def device_name(self) -> str:
        """The name of the device it ran on."""
        return self.environment.cpu if self.device == "cpu" else self.environment.device_name

    def profile(self, stage: Stage) -> StageProfile | None:
        """The pass that was profiled, of the first process that could be; one with source `none` where none could."""
        found = [p for p in self.profiles if p.stage == stage]
        return next((p for p in found if p.source != "none"), found[0] if found else None)

    def _seen(self, figure: str) -> float | None:
        """A figure of the decode step's profile; None where that is not of a GPU."""
        found = self.profile("decode")
        return getattr(found, figure) if found and found.source == "device" else None

    @property
    def gpu_busy_s(self) -> float | None:
        """Union of kernel intervals in a decode step, profiled."""
        return self._seen("busy_s")

    @property
    def gpu_busy(self) -> float | None:
        """gpu_busy_s / TPOT, the latter measured without a profiler, which slows the host."""
        return self.gpu_busy_s / self.tpot_s if self.gpu_busy_s is not None and self.tpot_s else None

    @property
    def num_kernels_per_step(self) -> float | None:
        """Kernels launched in a decode step."""
        return self._seen("num_kernels")

    @property
    def num_syncs_per_step(self) -> float | None:
        """Times in a decode step that the host waits for the GPU."""
        return self._seen("num_syncs")

    @property
    def table_key(self) -> TableKey:
        """Rows with equal keys stand in one table and may be compared."""
        return (self.model, self.engine, self.workload, self.device, self.batch_size, self.environment.pool_key)
