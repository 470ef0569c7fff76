"""What the runner asks of a worker process and what it hears back. One JSON object a line, both ways."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from bitbench.facts.frozen import Frozen
from bitbench.facts.models import ModelRef
from bitbench.facts.profile import StageProfile
from bitbench.facts.quality import Quality, TaskScores
from bitbench.facts.readings import Reading
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


class Gate(Frozen):
    """What a cell must pass before it is timed. `seed` decides the numerics gate's inputs; `stored` is the folder with
    the 16-bit model's logits, None where there are none: then numerics is all.
    """

    seed: int
    stored: str | None = None


class MeasureTask(Frozen):
    """Load one cell and measure the prompts of one process.

    `deadline_s` is on CLOCK_MONOTONIC: no prompt is begun after it, but one is always measured. `settle_s` is how long
    warm-up may wait for samples to agree. `profile` asks for a profiled pass after the measured ones. `gate` asks for
    numerics and quality before anything is timed.
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
    gate: Gate | None = None
    trust_remote_code: bool = False


class ReferenceTask(Frozen):
    """Store the 16-bit model's logits on what is read, within `budget_bytes`; `for_gate`: only what the gate needs.

    `text` is a user's file; None: the committed text. `num_positions` of whole windows; None: the device's default.
    """

    kind: Literal["reference"] = "reference"
    checkpoint: Checkpoint
    device: str
    budget_bytes: int
    for_gate: bool = False
    text: str | None = None
    num_positions: int | None = None
    trust_remote_code: bool = False


class HarnessTasks(Frozen):
    """What lm-evaluation-harness is asked: names of tasks, a folder with tasks of one's own, documents of each task."""

    names: tuple[str, ...]
    folder: str | None = None
    limit: int | None = None


class QualityTask(Frozen):
    """Compare one cell with the 16-bit model: `reference` is loaded beside it, or read from the folder `stored`.

    `seed` decides the numerics gate's inputs. `answers` are the reference's own, where another cell's worker has
    generated them already. The rest as in `ReferenceTask`.
    """

    kind: Literal["quality"] = "quality"
    checkpoint: Checkpoint
    method: str
    kernel: str | None = None
    engine: str
    device: str
    seed: int
    reference: Checkpoint | None = None
    answers: Reading | None = None
    stored: str | None = None
    text: str | None = None
    num_positions: int | None = None
    tasks: HarnessTasks | None = None
    trust_remote_code: bool = False


Task = Annotated[PrepareTask | BandwidthTask | MeasureTask | ReferenceTask | QualityTask, Field(discriminator="kind")]
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
        "tasks",
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
    weights_bytes: int
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


class ReferenceStored(Frozen):
    """The answer to ReferenceTask: a folder for QualityTask and Gate, which never leaves the machine."""

    kind: Literal["reference"] = "reference"
    folder: str


class Answered(Frozen):
    """The reference's own answers, generated beside a cell: the same for every other cell."""

    kind: Literal["answers"] = "answers"
    reading: Reading


class Compared(Frozen):
    """What quality was found, by the gate or in full, and what that took.

    `wall_s` and `cpu_s` (all threads) from the loaded models on; `models_bytes` in use then, `peak_bytes` at most
    until the end, None where unknown.
    """

    kind: Literal["compared"] = "compared"
    quality: Quality
    wall_s: float
    cpu_s: float
    models_bytes: int | None = None
    peak_bytes: int | None = None


class TasksScored(Frozen):
    """What lm-evaluation-harness found."""

    kind: Literal["tasks"] = "tasks"
    scores: tuple[TaskScores, ...]


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
    Progress
    | Loaded
    | Sampled
    | Prepared
    | BandwidthMeasured
    | ReferenceStored
    | Answered
    | Compared
    | TasksScored
    | Finished,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
