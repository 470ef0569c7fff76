"""What a run will do, decided before anything heavy starts: cells, processes, disk, memory, time, ceilings."""

from dataclasses import dataclass

from bitbench.engines.base import Supported
from bitbench.engines.registry import engine
from bitbench.facts import costs
from bitbench.facts.gpus import find as find_gpu
from bitbench.facts.models import ModelRef, ModelShape
from bitbench.facts.scheme import Scheme, w4a16
from bitbench.facts.workloads import Workload, starting_prompts
from bitbench.methods.awq import group_size_for
from bitbench.methods.checkpoint import CheckpointPlan, model_shape
from bitbench.methods.checkpoint import plan as plan_checkpoint
from bitbench.methods.registry import MethodChoice
from bitbench.results.environment import Environment
from bitbench.results.record import Cell

# Fewer processes than five give a range, not an interval (design, "interval").
DEFAULT_PROCESSES = 5
QUICK_PROCESSES = 2
MOST_PROCESSES = 10
DEFAULT_PRECISION = 0.03
DEFAULT_BUDGET_S = 600.0
DEFAULT_SILENCE_S = 300.0
# Guesses used for the plan's time only, from the first runs on an H200 and on two CPU cores: seconds until a worker has
# imported its libraries and loaded, warm-up included; and a step of eager transformers, which is host time per layer.
_START_S = 14.0
_EAGER_S_PER_LAYER = 0.9e-3
# Libraries, activations and workspace beside weights and KV cache: about 0.5 GB of CUDA context and workspace.
_WORKSPACE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for. `processes` None: as many as the precision needs. Times in seconds, precision 0-1."""

    model: ModelRef
    methods: tuple[MethodChoice, ...]
    engines: tuple[str, ...]
    device: str
    workload: Workload
    processes: int | None = None
    precision: float = DEFAULT_PRECISION
    budget_s: float | None = DEFAULT_BUDGET_S
    silence_s: float = DEFAULT_SILENCE_S
    quick: bool = False
    quantize: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False
    profile: bool = True

    @property
    def first_processes(self) -> int:
        """Processes of every cell before precision is asked about."""
        return self.processes or (QUICK_PROCESSES if self.quick else DEFAULT_PROCESSES)

    @property
    def most_processes(self) -> int:
        """Processes of a cell at the most."""
        return self.processes or (QUICK_PROCESSES if self.quick else MOST_PROCESSES)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What sizes alone say of a cell: bytes, and the ceiling at the device's known bandwidth. Unknown is None."""

    weights_bytes: int | None = None
    bytes_per_step: int | None = None
    memory_bytes: int | None = None
    ceiling_tokens_per_s: float | None = None
    process_s: float | None = None


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One row to be."""

    cell: Cell
    choice: MethodChoice
    supported: Supported
    checkpoint: CheckpointPlan | None
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, ready to be shown (`--dry-run`) or done. `memory_bytes` is what the device has, `bandwidth` bytes/s."""

    request: Request
    environment: Environment
    cells: tuple[PlannedCell, ...]
    memory_bytes: int | None
    bandwidth_bytes_per_s: float | None
    bandwidth_source: str

    @property
    def time_s(self) -> float:
        """A guess of the measuring time, bounded by the budget."""
        runnable = [c.forecast.process_s or _START_S for c in self.cells if c.supported.ok]
        guess = sum(runnable) * self.request.first_processes
        return min(guess, self.request.budget_s) if self.request.budget_s else guess


def make_plan(request: Request, environment: Environment) -> Plan:
    """Plan a run. Raises ValueError where the request can't work for any cell (prompt longer than the context)."""
    shape = model_shape(request.model)
    _check_context(request.workload, shape)
    gpu = find_gpu(environment.gpu.name) if environment.gpu else None
    bandwidth = (gpu.measured_read_bytes_per_s or gpu.bandwidth_bytes_per_s) if gpu else None
    cells = tuple(
        _plan_cell(request, choice, name, shape, bandwidth) for name in request.engines for choice in request.methods
    )
    memory = environment.gpu.memory_bytes if environment.gpu else environment.memory_bytes
    source = f"read bandwidth known of {gpu.name}" if gpu else ""
    return Plan(request, environment, cells, memory, bandwidth, source)


def _check_context(workload: Workload, shape: ModelShape | None) -> None:
    if shape is None:
        return
    prompt = workload.prompt_len or max(p.num_tokens for p in starting_prompts())
    longest = workload.depth + prompt + workload.output_len
    if longest > shape.max_positions:
        raise ValueError(
            f"{workload.name} needs a context of {longest} tokens and {shape.title} has {shape.max_positions}: "
            "choose a smaller --prompt-len or --output-len"
        )


def _plan_cell(
    request: Request, choice: MethodChoice, engine_name: str, shape: ModelShape | None, bandwidth: float | None
) -> PlannedCell:
    device = "fake" if engine_name == "fake" else request.device
    supported = engine(engine_name).supports(choice, device)
    checkpoint = None
    if supported.ok and engine_name != "fake":
        checkpoint = plan_checkpoint(request.model, choice.method.stored_as, device, request.quantize)
    cell = Cell(
        model=request.model.label,
        method=choice.method.name,
        kernel=choice.kernel,
        engine=engine_name,
        workload=request.workload.name,
        device=device,
    )
    return PlannedCell(cell, choice, supported, checkpoint, forecast(request, choice, shape, bandwidth))


def forecast(request: Request, choice: MethodChoice, shape: ModelShape | None, bandwidth: float | None) -> Forecast:
    """Bytes and ceiling of a method on a shape, and a rough time for one process."""
    if shape is None:
        return Forecast()
    workload = request.workload
    weights = costs.weights_bytes(shape, fitting_scheme(choice, shape))
    prompt = workload.prompt_len or sum(p.num_tokens for p in starting_prompts()) / len(starting_prompts())
    context = workload.depth + costs.mean_decode_context(prompt, workload.output_len)
    unread = 0 if shape.tied_embeddings else costs.embedding_bytes(shape)
    kv = costs.kv_bytes_per_token(shape)
    step = costs.bytes_per_step(weights, unread, kv, context, workload.batch_size)
    ceiling = bandwidth * workload.batch_size / step if bandwidth else None
    prompts = -(-workload.num_prompts // request.first_processes)
    process_s = _START_S + prompts * workload.output_len * shape.num_layers * _EAGER_S_PER_LAYER
    longest = int(workload.depth + prompt + workload.output_len)
    memory = weights + kv * longest * workload.batch_size + _WORKSPACE_BYTES
    return Forecast(weights, step, memory, ceiling, process_s)


def fitting_scheme(choice: MethodChoice, shape: ModelShape) -> Scheme:
    """The method's scheme with the group size that divides the model's matrices.

    Raises LoadError where none does.
    """
    scheme = choice.method.scheme
    return w4a16(group_size_for(shape), scheme.lm_head_bits) if choice.method.family == "awq" else scheme
