"""What the runner asks of a worker process and what it hears back. One JSON object a line, both ways."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from bitbench.facts.frozen import Frozen
from bitbench.facts.models import ModelRef
from bitbench.facts.profile import StageProfile
from bitbench.facts.samples import Bandwidth, KernelReport, Memory, PromptSample, TokenCheck
from bitbench.facts.status import Flag, Status

PROCESS_VARIABLE = "BITBENCH_PROCESS_INDEX"
"""Environment variable set by the runner for every worker: the number of this process within its cell."""


class Made(Frozen):
    """What identifies and describes a model's files, wherever they lie.

    `content_hash` identifies the numbers; `origin` is one line of where they came from; `notes` are shown under the
    table. `group_size` is that of a stored quantization, else 0.
    """

    origin: str
    content_hash: str
    notes: tuple[str, ...] = ()
    group_size: int = 0
    title: str = ""
    has_tokenizer: bool = False


class Checkpoint(Made):
    """A model folder on disk that holds one method's numbers (or the 16-bit ones a method quantizes at load).

    `path` is local and never leaves the machine.
    """

    path: str


class PrepareTask(Frozen):
    """Make sure that the checkpoint of `method` for `model` is on disk."""

    kind: Literal["prepare"] = "prepare"
    model: ModelRef
    method: str
    device: str
    quantize: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False


class BandwidthTask(Frozen):
    """Measure read bandwidth at these working-set sizes."""

    kind: Literal["bandwidth"] = "bandwidth"
    device: str
    working_set_bytes: tuple[int, ...]


class MeasureTask(Frozen):
    """Load one cell and measure the prompts of one process.

    `deadline_s` is on CLOCK_MONOTONIC: no prompt is begun after it, but one is always measured. `settle_s` is how long
    warm-up may wait for samples to agree. `profile` asks for a profiled pass after the measured ones.
    """

    kind: Literal["measure"] = "measure"
    checkpoint: Checkpoint
    method: str
    kernel: str | None = None
    engine: str
    workload: str
    device: str
    process_index: int = 0
    prompt_indices: tuple[int, ...]
    deadline_s: float | None = None
    warmup_output_len: int = 16
    settle_s: float = 20.0
    profile: bool = False
    trust_remote_code: bool = False


Task = Annotated[PrepareTask | BandwidthTask | MeasureTask, Field(discriminator="kind")]
TASK: TypeAdapter[Task] = TypeAdapter(Task)


class Progress(Frozen):
    """What the worker is doing, for the progress display. `done` and `total` count `unit`s where that is known."""

    kind: Literal["progress"] = "progress"
    stage: Literal[
        "import",
        "prepare",
        "download",
        "quantize",
        "load",
        "check",
        "warmup",
        "measure",
        "bandwidth",
        "profile",
        "quality",
    ]
    detail: str = ""
    done: float | None = None
    total: float | None = None


class Loaded(Frozen):
    """The model is in memory."""

    kind: Literal["loaded"] = "loaded"
    load_s: float
    kernel: KernelReport
    bytes_per_step: int
    dtype: str
    cuda_version: str | None = None


class Sampled(Frozen):
    """One prompt was generated, warm-up or measured."""

    kind: Literal["sampled"] = "sampled"
    sample: PromptSample


class Prepared(Frozen):
    """The answer to PrepareTask."""

    kind: Literal["prepared"] = "prepared"
    checkpoint: Checkpoint


class BandwidthMeasured(Frozen):
    """The answer to BandwidthTask."""

    kind: Literal["bandwidth"] = "bandwidth"
    bandwidths: tuple[Bandwidth, ...]
    matmul_flops_per_s: float | None = None


class Finished(Frozen):
    """The worker's last word; without it the process died. `window_s` is the measured window on CLOCK_MONOTONIC."""

    kind: Literal["finished"] = "finished"
    status: Status
    reason: str = ""
    flags: tuple[Flag, ...] = ()
    memory: Memory | None = None
    token_check: TokenCheck | None = None
    kernel_names: tuple[str, ...] = ()
    profiles: tuple[StageProfile, ...] = ()
    node_gap_s: float | None = None
    window_s: tuple[float, float] | None = None


Event = Annotated[
    Progress | Loaded | Sampled | Prepared | BandwidthMeasured | Finished,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
