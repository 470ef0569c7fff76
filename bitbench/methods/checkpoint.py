"""The checkpoint that a method needs of a model: made, found or downloaded (`prepare`), or only foreseen (`plan`).

Importing this module and calling `plan` or `model_shape` never imports torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitbench.facts import costs
from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Checkpoint, Made, PrepareTask, Progress
from bitbench.facts.models import SHAPES, ModelRef, ModelShape
from bitbench.facts.scheme import w4a16
from bitbench.methods import awq, cache, demo, hub, shape_checkpoint
from bitbench.methods import folder as model_folder
from bitbench.methods.content_hash import content_hash, text_hash
from bitbench.methods.folder import ModelFolder
from bitbench.methods.quantizers import QUANTIZERS
from bitbench.methods.registry import METHODS

Report = Callable[[Progress], None]
# The method that a checkpoint published as AWQ belongs to.
_AWQ = "awq-int4"
# A rough share of the 16-bit size for what AWQ's storage takes of an architecture whose sizes are not known.
_INT4_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """What preparing would take. `work` is one line; unknown sizes are None; `cached` means nothing is left to do."""

    cached: bool
    download_bytes: int | None
    disk_bytes: int | None
    work: str


_READY = CheckpointPlan(True, 0, 0, "ready")


def model_shape(model: ModelRef) -> ModelShape | None:
    """Sizes for predicting memory, from the table or a config.json on this disk; None where unknown. No network."""
    if model.kind == "shape":
        return SHAPES[model.name]
    if model.kind == "demo":
        return demo.SHAPE
    if model.kind == "hub" and (known := _shape_by_source(model.name)):
        return known
    if model.kind == "folder":
        path: Path | None = Path(model.name).expanduser()
    else:
        path = hub.cached_folder(model.name) or hub.cached_folder(f"{model.name}-AWQ")
    try:
        return model_folder.shape_of(model_folder.read_config(path), _title(model)) if path else None
    except LoadError:
        return None


def _shape_by_source(repo: str) -> ModelShape | None:
    return next((shape for shape in SHAPES.values() if shape.source == repo), None)


def _title(model: ModelRef) -> str:
    return Path(model.name).expanduser().resolve().name if model.kind == "folder" else model.name.rpartition("/")[2]


def prepare(task: PrepareTask, progress: Report) -> Checkpoint:
    """Make sure that the checkpoint of `task.method` is on disk. Raises LoadError in one line."""
    if not METHODS[task.method].has_own_checkpoint:
        return _prepare_16bit(task, progress)
    if task.model.kind == "shape":
        return _prepare_int4_shape(task.model.name, task.device, progress)
    ready = _awq_as_it_is(task, progress) if task.method == _AWQ and task.model.kind != "demo" else None
    return ready or _quantized(task, _prepare_16bit(task, progress), progress)


def _prepare_16bit(task: PrepareTask, progress: Report) -> Checkpoint:
    model = task.model
    if model.kind == "demo":
        entry = cache.get_or_make(demo.NAME, demo.recipe(), demo.NUM_BYTES, lambda path: demo.make(path, progress))
        return _cached(entry)
    if model.kind == "shape":
        shape = SHAPES[model.name]
        name, recipe = f"shape-{model.name}-fp16", shape_checkpoint.recipe(shape)
        needed = shape_checkpoint.num_bytes(shape)
        return _cached(
            cache.get_or_make(name, recipe, needed, lambda path: shape_checkpoint.make(shape, path, progress))
        )
    found, origin = _find_folder(task, model.name, progress)
    if found.quantization:
        raise LoadError(_already_quantized(model.name, found))
    return _as_it_is(task, found, origin, progress)


def _prepare_int4_shape(name: str, device: str, progress: Report) -> Checkpoint:
    """One entry for all methods in AWQ's storage: random weights leave calibration nothing to find."""
    shape = SHAPES[name]
    size = awq.group_size_for(shape)
    recipe, needed = shape_checkpoint.recipe(shape, size), shape_checkpoint.num_bytes(shape, size)
    return _cached(
        cache.get_or_make(
            f"shape-{name}-awq-g{size}",
            recipe,
            needed,
            lambda path: shape_checkpoint.make_awq(shape, size, device, path, progress),
        )
    )


def _awq_as_it_is(task: PrepareTask, progress: Report) -> Checkpoint | None:
    """The AWQ checkpoint that the model is, or that its maker publishes; None where there is none."""
    name = _published_awq(task) or task.model.name
    found, origin = _find_folder(task, name, progress)
    if not found.quantization:
        return None
    _check_awq(name, found)
    return _as_it_is(task, found, origin, progress)


def _quantized(task: PrepareTask, source: Checkpoint, progress: Report) -> Checkpoint:
    """The method's checkpoint, made of a 16-bit one."""
    shape = model_folder.shape_of(model_folder.read_config(Path(source.path)), source.title)
    if shape is None:
        raise LoadError(
            f"{source.title} cannot be quantized to {task.method} here: only Llama, Mistral, Qwen2 and Qwen3 models can"
        )
    size, quantizer = awq.group_size_for(shape), QUANTIZERS[task.method]
    recipe = quantizer.recipe(source.content_hash, size, task.device)
    entry = cache.get_or_make(
        _entry_name(task, recipe),
        recipe,
        costs.weights_bytes(shape, w4a16(size)),
        lambda path: quantizer.quantize(
            source,
            group_size=size,
            num_layers=shape.num_layers,
            device=task.device,
            folder=path,
            progress=progress,
            trust_remote_code=task.trust_remote_code,
        ),
    )
    return _cached(entry)


def _entry_name(task: PrepareTask, recipe: str) -> str:
    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in _title(task.model)).strip(".")
    return f"{stem or 'model'}-{QUANTIZERS[task.method].NAME}-{text_hash(recipe)[:10]}"


def _cached(entry: cache.Entry) -> Checkpoint:
    fields = {name: getattr(entry, name) for name in Made.model_fields}
    return Checkpoint(path=str(cache.path_of(entry.name)), **fields)


def _published_awq(task: PrepareTask) -> str | None:
    """The AWQ checkpoint that a hub model's maker publishes under the same owner, as Qwen does."""
    name = task.model.name
    if task.model.kind != "hub" or task.quantize or name.lower().endswith("-awq"):
        return None
    candidate = f"{name}-AWQ"
    if hub.cached_folder(candidate):
        return candidate
    return candidate if hub.hub_reachable() and hub.exists(candidate) else None


def _find_folder(task: PrepareTask, name: str, progress: Report) -> tuple[ModelFolder, str]:
    """A local folder, or a hub model from the Hugging Face cache or the hub; with one line of where it came from."""
    allowed = (task.allow_pickle, task.trust_remote_code)
    if task.model.kind == "folder":
        path = Path(name).expanduser()
        if not path.is_dir():
            raise LoadError(f"no model folder at '{name}'")
        return model_folder.inspect(path, *allowed), f"local folder {path.resolve().name}"
    if whole := _whole_snapshot(name, *allowed):
        return whole, f"{name} at {whole.path.name[:12]} of {hub.endpoint()}"
    wanted = hub.files(name, task.allow_pickle)
    path = hub.download(wanted, progress)
    return model_folder.inspect(path, *allowed), f"{name} at {wanted.commit[:12]} of {hub.endpoint()}"


def _whole_snapshot(repo: str, allow_pickle: bool, trust_remote_code: bool) -> ModelFolder | None:
    path = hub.cached_folder(repo)
    try:
        return model_folder.inspect(path, allow_pickle, trust_remote_code) if path else None
    except LoadError:
        return None  # an interrupted download: ask the hub, which says what is wrong if it is something else


def _already_quantized(name: str, found: ModelFolder) -> str:
    assert found.quantization
    stored = found.quantization.method
    choice = "choose awq-int4, or give" if stored == "awq" else "give"
    return f"{name} is quantized already by {stored}: {choice} the 16-bit model"


def _check_awq(name: str, found: ModelFolder) -> None:
    assert found.quantization
    if found.quantization.method != "awq":
        raise LoadError(_already_quantized(name, found))
    if found.quantization.bits not in (None, awq.BITS):
        raise LoadError(f"{name} is AWQ with {found.quantization.bits} bits: awq-int4 is 4 bits")


def _as_it_is(task: PrepareTask, found: ModelFolder, origin: str, progress: Report) -> Checkpoint:
    def hashing(done: int, total: int) -> None:
        progress(Progress(stage="prepare", detail="hashing the weights", done=done, total=total))

    return Checkpoint(
        path=str(found.path),
        content_hash=content_hash(found.hashed_files, hashing),
        origin=origin,
        group_size=found.quantization.group_size if found.quantization else 0,
        title=_title(task.model),
        has_tokenizer=found.has_tokenizer,
    )


def plan(model: ModelRef, method: str, device: str, quantize: bool = False) -> CheckpointPlan:
    """What `prepare` would do, without doing it and without torch; it may ask the hub for sizes.

    A model that can't be used is no error here: `work` says why, and `prepare` raises it.
    """
    task = PrepareTask(model=model, method=method, device=device, quantize=quantize)
    stored = METHODS[method].has_own_checkpoint
    try:
        if model.kind == "shape":
            return _plan_shape(SHAPES[model.name], model.name, stored)
        if model.kind == "demo":
            return _plan_demo(task, stored)
        return _plan_folder(task, stored)
    except LoadError as error:
        return CheckpointPlan(False, None, None, f"fails: {error}")


def _plan_shape(shape: ModelShape, name: str, stored: bool) -> CheckpointPlan:
    size = awq.group_size_for(shape) if stored else 0
    suffix = f"awq-g{size}" if stored else "fp16"
    if cache.find(f"shape-{name}-{suffix}", shape_checkpoint.recipe(shape, size)):
        return _READY
    work = "write random weights" + (" rounded to AWQ's storage" if stored else "")
    return CheckpointPlan(False, 0, shape_checkpoint.num_bytes(shape, size), work)


def _plan_demo(task: PrepareTask, stored: bool) -> CheckpointPlan:
    entry = cache.find(demo.NAME, demo.recipe())
    first = _READY if entry else CheckpointPlan(False, 0, demo.NUM_BYTES, "turn the demo into 16 bit, about 30 s")
    return _plan_quantizing(task, first, entry.content_hash if entry else None, demo.SHAPE) if stored else first


def _plan_folder(task: PrepareTask, stored: bool) -> CheckpointPlan:
    if task.method == _AWQ and (published := _published_awq(task)):
        return _plan_hub(published)
    if task.model.kind == "hub" and not (found := _whole_snapshot(task.model.name, True, True)):
        first = _plan_hub(task.model.name)
        return _plan_quantizing(task, first, None, model_shape(task.model)) if stored else first
    if task.model.kind == "folder":
        found = _find_folder(task, task.model.name, lambda _: None)[0]
    assert found
    if found.quantization:
        if task.method != _AWQ:
            raise LoadError(_already_quantized(task.model.name, found))
        _check_awq(task.model.name, found)
        return _READY
    if not stored:
        return _READY
    return _plan_quantizing(task, _READY, content_hash(found.hashed_files), model_shape(task.model))


def _plan_hub(repo: str) -> CheckpointPlan:
    if _whole_snapshot(repo, True, True):
        return _READY
    size = hub.files(repo, allow_pickle=True).num_bytes
    return CheckpointPlan(False, size, size, f"download {repo}")


def _plan_quantizing(
    task: PrepareTask, first: CheckpointPlan, source_hash: str | None, shape: ModelShape | None
) -> CheckpointPlan:
    """Quantizing, after what `first` says. `source_hash` None: the 16-bit checkpoint is not there yet."""
    quantizer = QUANTIZERS[task.method]
    work = _then(first, quantizer.work(shape, task.device))
    if shape is None:
        size = int((first.disk_bytes or 0) * (1 + _INT4_SHARE)) or None
        return CheckpointPlan(False, first.download_bytes, size, work)
    group_size = awq.group_size_for(shape)
    if source_hash:
        recipe = quantizer.recipe(source_hash, group_size, task.device)
        if cache.find(_entry_name(task, recipe), recipe):
            return _READY
    disk = (first.disk_bytes or 0) + costs.weights_bytes(shape, w4a16(group_size))
    return CheckpointPlan(False, first.download_bytes, disk, work)


def _then(first: CheckpointPlan, work: str) -> str:
    return work if first.cached else f"{first.work}, then {work}"
