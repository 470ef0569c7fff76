"""The record: what one worker process left behind for one cell, and the other lines of a record file.

A record file is JSON lines. Raw samples are kept, warm-ups too; nothing in it is a mean.

Schema history:
  1  first
  2  `profiles`, `node_gap_s`, `matmul_flops_per_s`: where a step's time goes
  3  `gate`, `gate_s`: what a cell passed before it was timed; lines of kind `quality`
  4  `kernel.source`: the hash of our own kernel's source
  5  `token_check.num_agreeing_eager`, flag `noisy_tokens`: a method whose tokens not even eager transformers repeats
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from bitbench.facts.frozen import Frozen
from bitbench.facts.profile import StageProfile
from bitbench.facts.quality import Quality, TaskScores
from bitbench.facts.samples import Bandwidth, KernelReport, Memory, PowerSample, PromptSample, TokenCheck
from bitbench.facts.status import Flag, Status
from bitbench.results.environment import Environment

SCHEMA_VERSION = 5


class Subject(Frozen):
    """What quality is a property of: a cell without its workload."""

    model: str
    method: str
    kernel: str | None = None
    engine: str
    device: str

    @property
    def method_label(self) -> str:
        """As of a cell."""
        return f"{self.method}:{self.kernel}" if self.kernel else self.method


class Cell(Frozen):
    """Model x method (with the kernel asked for, if any) x engine x workload on a device."""

    model: str
    method: str
    kernel: str | None = None
    engine: str
    workload: str
    device: str

    @property
    def method_label(self) -> str:
        """`awq-int4:marlin`, or the plain method where no kernel was asked for."""
        return self.subject.method_label

    @property
    def subject(self) -> Subject:
        """The cell without its workload."""
        return Subject(**self.model_dump(exclude={"workload"}))


class ProcessRecord(Frozen):
    """What every record of a worker process says: how it ended, where it ran, and what was loaded.

    `scheme` is what is stored; `kernel` what really ran; `environment` the machine and library versions, which decide
    what may be pooled.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    created_at: str
    status: Status
    reason: str = ""
    environment: Environment
    model_title: str = ""
    checkpoint_hash: str = ""
    checkpoint_origin: str = ""
    notes: tuple[str, ...] = ()
    scheme: str
    weight_bits: float
    dtype: str = ""
    kernel: KernelReport | None = None
    process_s: float | None = None


class Record(ProcessRecord):
    """One worker process of one cell.

    `power` was watched from the runner's process. `energy_j` is the counter's difference over the
    measured window, in which `energy_tokens` tokens were made. `profiles` come from a pass after it, in the first
    process of a cell. `gate` is what was found before anything was timed, in the first process of a cell, and `gate_s`
    what that took. `node_gap_s` is what a CUDA graph needs between two kernels that depend on each other, here;
    `matmul_flops_per_s` what a large 16-bit matrix product reaches on this device.
    """

    kind: Literal["record"] = "record"
    cell: Cell
    process_index: int
    flags: tuple[Flag, ...] = ()
    itl_clock: Literal["host", "device"] = "host"
    batch_size: int
    output_len: int
    samples: tuple[PromptSample, ...] = ()
    memory: Memory | None = None
    token_check: TokenCheck | None = None
    gate: Quality | None = None
    gate_s: float | None = None
    bytes_per_step: int | None = None
    bandwidth: Bandwidth | None = None
    power: tuple[PowerSample, ...] = ()
    energy_j: float | None = None
    energy_tokens: int | None = None
    profiles: tuple[StageProfile, ...] = ()
    node_gap_s: float | None = None
    matmul_flops_per_s: float | None = None
    load_s: float | None = None

    @model_validator(mode="after")
    def _only_ok_has_a_speed(self) -> "Record":
        if self.status != "ok" and any(not s.warmup for s in self.samples):
            raise ValueError(f"a record with status '{self.status}' may not carry measured samples")
        return self


class QualityRecord(ProcessRecord):
    """One worker process that compared a cell with the 16-bit model.

    `reference_hash` identifies the 16-bit numbers, `reference_held` says whether they were loaded beside the cell or
    their logits read from disk. `compare_s` is wall time and `compare_cpu_s` that of all threads, gate included, with
    everything loaded; `models_bytes` were in use then, `peak_memory_bytes` at most from then on, by the allocator on a
    GPU and as resident set on a CPU.
    """

    kind: Literal["quality"] = "quality"
    subject: Subject
    weights_bytes: int | None = None
    reference_hash: str = ""
    reference_held: Literal["beside", "stored"] = "beside"
    quality: Quality | None = None
    tasks: tuple[TaskScores, ...] = ()
    compare_s: float | None = None
    compare_cpu_s: float | None = None
    models_bytes: int | None = None
    peak_memory_bytes: int | None = None

    @model_validator(mode="after")
    def _only_ok_has_a_quality(self) -> "QualityRecord":
        if self.status != "ok" and self.quality is not None:
            raise ValueError(f"a record with status '{self.status}' may not carry quality")
        return self


class Ending(Frozen):
    """Why no further process of a cell was started in a run, and what width was asked for."""

    kind: Literal["ending"] = "ending"
    schema_version: int = SCHEMA_VERSION
    run_id: str
    cell: Cell
    ended_by: Literal["precision", "budget", "processes", "failure", "interrupt"]
    asked_precision: float | None
    reached_precision: float | None
    num_processes: int


Line = Annotated[Record | QualityRecord | Ending, Field(discriminator="kind")]
LINE: TypeAdapter[Line] = TypeAdapter(Line)
