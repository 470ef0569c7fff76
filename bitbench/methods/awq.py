"""AWQ checkpoints made by gptqmodel from a 16-bit one, with the named calibration text."""

import errno
import importlib.util
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Checkpoint, Made, Progress
from bitbench.facts.models import ModelShape
from bitbench.methods import calibration
from bitbench.methods.content_hash import content_hash

NAME = "awq"
BITS = 4
GROUP_SIZES = (128, 64, 32)
# Measured on two cores: 135M parameters in 150 s, nearly all of it proportional to parameters times calibration tokens.
_CPU_S_PER_PARAMETER_AND_TOKEN = 5.5e-10
_GPU_S_PER_LAYER = 6.0  # a guess: gptqmodel's own packing and progress, whatever the size
_WORKERS_VARIABLE = "GPTQMODEL_CPU_WORKERS"


def group_size_for(shape: ModelShape) -> int:
    """The largest usual group that divides every projection's inputs: 128, or 64 where the hidden size is 576.

    Raises LoadError where none does.
    """
    for size in GROUP_SIZES:
        if all(in_features % size == 0 for _, in_features, _ in shape.linear_shapes):
            return size
    raise LoadError(f"{shape.title} cannot be stored in 4 bits: no group of {GROUP_SIZES} weights divides its matrices")


def recipe(source_hash: str, group_size: int, device: str) -> str:
    """What decides the checkpoint's content: the 16-bit numbers, the settings, the text and the library."""
    return (
        f"awq 2: {source_hash} {BITS} bits g{group_size} asymmetric, {calibration.amount(device).line} "
        f"{calibration.digest()}, gptqmodel {_library_version()}"
    )


def work(shape: ModelShape | None, device: str) -> str:
    """One line of what quantizing takes; without a time where the sizes are not known."""
    if shape is None:
        return "quantize with gptqmodel"
    return f"quantize with gptqmodel, about {max(1, round(_estimated_s(shape, device) / 60))} minutes"


def _estimated_s(shape: ModelShape, device: str) -> float:
    if device != "cpu":
        return _GPU_S_PER_LAYER * shape.num_layers
    used = calibration.amount(device)
    parameters = shape.num_layers * sum(i * o for _, i, o in shape.linear_shapes)
    return 20 + parameters * used.documents * used.tokens * _CPU_S_PER_PARAMETER_AND_TOKEN


def _library_version() -> str:
    try:
        return version("gptqmodel")
    except PackageNotFoundError:
        return "none"


def quantize(
    source: Checkpoint,
    *,
    group_size: int,
    num_layers: int,
    device: str,
    folder: Path,
    progress: Callable[[Progress], None],
    trust_remote_code: bool = False,
) -> Made:
    """Quantize the 16-bit checkpoint `source` into `folder`. Raises LoadError where it can't be done."""
    if importlib.util.find_spec("gptqmodel") is None:
        raise LoadError("making an AWQ checkpoint needs gptqmodel: pip install 'bitbench[awq]'")
    if not source.has_tokenizer:
        raise LoadError(f"{source.path} has no tokenizer, which calibrating AWQ needs: choose another method")
    # gptqmodel starts a pool of this many threads at import and refuses a pool of one.
    os.environ.setdefault(_WORKERS_VARIABLE, str(max(2, min(4, os.cpu_count() or 2))))
    progress(Progress(stage="import", detail="gptqmodel"))
    model = _load(source, group_size, device, trust_remote_code)
    _report_layers(model, num_layers, progress)
    _run(model, source, device, progress, trust_remote_code)
    progress(Progress(stage="quantize", detail="saving", done=num_layers, total=num_layers))
    _save(model, folder)
    return Made(
        origin=f"quantized by gptqmodel {_library_version()} (with bitbench's clip search) to AWQ g{group_size} "
        f"with {calibration.amount(device).line}, from: {source.origin}",
        content_hash=content_hash([folder / "config.json", *folder.glob("*.safetensors")]),
        notes=source.notes,
        group_size=group_size,
        title=source.title,
        has_tokenizer=True,
    )


def _load(source: Checkpoint, group_size: int, device: str, trust_remote_code: bool) -> Any:
    import torch
    from gptqmodel import GPTQModel
    from gptqmodel.quantization import FORMAT
    from gptqmodel.quantization.config import AWQConfig

    config = AWQConfig(
        bits=BITS, group_size=group_size, sym=False, format=FORMAT.GEMM, offload_to_disk=False, device=device
    )
    # gptqmodel packs 16-bit weights only, and on a CPU with AVX-512 float16 is several times slower than bfloat16.
    dtype = torch.bfloat16 if device == "cpu" else torch.float16
    return GPTQModel.load(source.path, config, dtype=dtype, trust_remote_code=trust_remote_code)


def _report_layers(model: Any, num_layers: int, progress: Callable[[Progress], None]) -> None:
    def layer_done(layer_idx: int, submodule_finalized: bool) -> None:
        if not submodule_finalized:
            progress(Progress(stage="quantize", detail="AWQ, layer by layer", done=layer_idx + 1, total=num_layers))

    progress(Progress(stage="quantize", detail="AWQ, layer by layer", done=0, total=num_layers))
    model.layer_callback = layer_done


def _run(
    model: Any, source: Checkpoint, device: str, progress: Callable[[Progress], None], trust_remote_code: bool
) -> None:
    from gptqmodel import BACKEND
    from transformers import AutoTokenizer

    from bitbench.methods.awq_clip import fast_clip_search
    from bitbench.methods.awq_linear import fast_linear

    tokenizer = AutoTokenizer.from_pretrained(source.path, local_files_only=True, trust_remote_code=trust_remote_code)
    documents = calibration.token_ids(tokenizer, calibration.amount(device))
    with fast_clip_search(), fast_linear(device):
        # The torch kernel packs everywhere; which kernel multiplies is chosen again when the checkpoint is loaded.
        model.quantize(documents, tokenizer=tokenizer, backend=BACKEND.AWQ_TORCH, batch_size=1, calibration_sort=None)


def _save(model: Any, folder: Path) -> None:
    from safetensors import SafetensorError

    try:
        model.save(str(folder))
    except SafetensorError as error:
        if "No space left" in str(error):  # safetensors wraps the system's error in one of its own
            raise OSError(errno.ENOSPC, "No space left on device") from error
        raise LoadError(f"saving the AWQ checkpoint: {error}") from error
