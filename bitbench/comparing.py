"""A worker's tasks about quality: store the 16-bit model's logits, compare a cell with them or with the model itself.

The reference is always driven by eager transformers, whatever drives the cell.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bitbench.engines.base import LoadedModel
from bitbench.engines.registry import DEFAULT_ENGINE
from bitbench.engines.registry import engine as find_engine
from bitbench.facts.corpora import Corpus, built_in, own_text
from bitbench.facts.errors import LoadError
from bitbench.facts.libraries import installed_versions
from bitbench.facts.messages import (
    Answered,
    Checkpoint,
    Compared,
    Event,
    Finished,
    Loaded,
    Made,
    QualityTask,
    ReferenceStored,
    ReferenceTask,
    TasksScored,
)
from bitbench.facts.workloads import parse_workload
from bitbench.measure import gate, harness, quality
from bitbench.measure.memory import meter
from bitbench.measure.readings import LOGIT_BYTES, Amount, amount, gate_amount, readings
from bitbench.measure.reference import LiveReference, Reference, StoredReference, store
from bitbench.methods import cache
from bitbench.methods.content_hash import content_hash, text_hash
from bitbench.methods.folder import read_config
from bitbench.methods.registry import parse_method, reference_method

Send = Callable[[Event], None]
# On a GPU. With more, some of AWQ's kernels dequantize first, which is not what short prompts meet.
_TOKENS_AT_ONCE = 1024
# The gate's prompt where a model has no tokenizer or is compared for the first time: any will do.
_PROMPT = parse_workload("p32-n16")


def store_reference(task: ReferenceTask, send: Send) -> Finished:
    """Make sure that the reference's logits are in the cache; nothing is loaded where they are."""
    size, corpus = _size(task), None if task.for_gate else _corpus(task.text)
    recipe = _recipe(task, size, corpus)
    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in task.checkpoint.title).strip(".")
    name = f"{stem or 'model'}-reference-{text_hash(recipe)[:10]}"

    def make(folder: Path) -> Made:
        model = _load_reference(task.checkpoint, task.device, task.trust_remote_code)
        try:
            fitting = size.within(task.budget_bytes, model.vocab_size())
        except ValueError as error:
            raise LoadError(str(error)) from error
        found = readings(model, corpus, fitting, send)
        store(LiveReference(model, found), folder, send)
        origin = f"logits of {found.num_positions} positions in {found.reference_dtype}, from: {task.checkpoint.origin}"
        return Made(origin=origin, content_hash=content_hash(list(folder.iterdir())), title=task.checkpoint.title)

    entry = cache.get_or_make(name, recipe, _needed_bytes(task, size), make)
    send(ReferenceStored(folder=str(cache.path_of(entry.name))))
    return Finished(status="ok")


def _needed_bytes(task: ReferenceTask, size: Amount) -> int:
    """What it takes at most; a short text takes less."""
    vocab = read_config(Path(task.checkpoint.path)).get("vocab_size")
    rows = size.num_forced_rows + size.num_positions + size.window
    return min(task.budget_bytes, rows * LOGIT_BYTES * vocab) if isinstance(vocab, int) else 0


def _recipe(task: ReferenceTask, size: Amount, corpus: Corpus | None) -> str:
    """All that decides the logits: numbers, text, amount, device and libraries."""
    versions = installed_versions()
    libraries = " ".join(f"{name} {versions.get(name)}" for name in ("torch", "transformers"))
    method = reference_method(task.device).method.name
    text = corpus.digest if corpus else "own answers"
    return (
        f"reference 1: {task.checkpoint.content_hash} {method} on {_device_name(task.device)}, {libraries}, {text}, "
        f"{size}, {task.budget_bytes} bytes"
    )


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return str(torch.cuda.get_device_name(device))


def compare(task: QualityTask, send: Send) -> Finished:
    """Load, gate, compare. Raises IncorrectOutput, LoadError, OutOfMemory, Unsupported."""
    choice = parse_method(f"{task.method}:{task.kernel}" if task.kernel else task.method)
    manager = harness.load_tasks(task.tasks) if task.tasks else None  # before anything dear, in case it fails
    watched = meter(task.device)
    began = time.monotonic()
    model = find_engine(task.engine).load(task.checkpoint, choice, task.device, task.trust_remote_code)
    model.synchronize()
    send(
        Loaded(
            load_s=time.monotonic() - began,
            kernel=model.kernels(),
            bytes_per_step=model.weights_bytes() - model.unread_embedding_bytes(),
            weights_bytes=model.weights_bytes(),
            dtype=model.dtype(),
        )
    )
    live = None
    if task.reference is not None:
        live = _load_reference(task.reference, task.device, task.trust_remote_code)
    in_use = watched.used_bytes()
    watched.reset_peak()
    began, cpu_began = time.monotonic(), time.process_time()
    prompt = _PROMPT.token_ids(0, model.vocab_size())[0]
    checked = gate.check(model, prompt, seed=task.seed, stored=None, device=task.device, report=send)
    at_once = 0 if task.device in ("cpu", "fake") else _TOKENS_AT_ONCE
    found = quality.compare(_reference(task, live, send), model, send, at_once)
    quality.check_broken(found)
    send(
        Compared(
            quality=found.model_copy(update={"numerics": checked.numerics}),
            wall_s=time.monotonic() - began,
            cpu_s=time.process_time() - cpu_began,
            models_bytes=in_use,
            peak_bytes=watched.peak_bytes(),
        )
    )
    if task.tasks:
        send(TasksScored(scores=harness.score(model, task.tasks, manager, send)))
    return Finished(status="ok")


def _reference(task: QualityTask, live: LoadedModel | None, send: Send) -> Reference:
    if live is None:
        assert task.stored, "a cell is compared with a loaded or a stored reference"
        return StoredReference(Path(task.stored), task.device)
    found = readings(live, _corpus(task.text), _size(task), send, task.answers)
    if task.answers is None:
        send(Answered(reading=found.readings[0]))
    return LiveReference(live, found)


def _load_reference(checkpoint: Checkpoint, device: str, trust_remote_code: bool) -> LoadedModel:
    engine = find_engine("fake" if device == "fake" else DEFAULT_ENGINE)
    return engine.load(checkpoint, reference_method(device), device, trust_remote_code)


def _corpus(text: str | None) -> Corpus:
    """Raises LoadError where a user's file is gone or no text."""
    if text is None:
        return built_in()
    try:
        return own_text(Path(text))
    except (OSError, ValueError) as error:
        raise LoadError(str(error)) from error


def _size(task: ReferenceTask | QualityTask) -> Amount:
    if isinstance(task, ReferenceTask) and task.for_gate:
        return gate_amount(task.device)
    size = amount(task.device)
    return size if task.num_positions is None else replace(size, num_positions=task.num_positions)
