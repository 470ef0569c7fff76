"""Writes a shape's checkpoints: its seeded 16-bit weights, or the same weights rounded to AWQ's storage."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bitbench.facts import costs
from bitbench.facts.messages import Made, Progress
from bitbench.facts.models import ModelShape
from bitbench.facts.scheme import FP16, w4a16
from bitbench.facts.workloads import parse_workload
from bitbench.methods import awq_layout, outliers, safetensors_file, shapes
from bitbench.methods.content_hash import content_hash
from bitbench.methods.safetensors_file import TensorSpec

# Above this the outlier rates of a shape are not measured at preparation: it would take minutes and much memory.
_MEASURED_UP_TO_BYTES = 4 * 10**9
_MEASURED_PROMPTS = "p64-n1"
RANDOM_NOTE = "the weights are random: speed and memory mean something, the text does not"


def num_bytes(shape: ModelShape, group_size: int = 0) -> int:
    """Disk space of the 16-bit checkpoint, or of the AWQ one with that group size, with some room for headers."""
    return costs.weights_bytes(shape, w4a16(group_size) if group_size else FP16) + 2_000_000


def recipe(shape: ModelShape, group_size: int = 0) -> str:
    """What decides the checkpoint's content."""
    made = f"awq round-to-nearest g{group_size}" if group_size else "float16"
    return f"shape 1: {shapes.fingerprint(shape)} outliers {outliers.PROFILE} {made}"


def make(shape: ModelShape, folder: Path, progress: Callable[[Progress], None]) -> Made:
    """The 16-bit checkpoint. One tensor is in memory at a time."""
    specs = shapes.tensor_specs(shape)
    _write(shape, specs, shapes.tensors(shape, _planted(shape)), folder, progress)
    _write_config(folder, shapes.config(shape))
    return Made(
        origin=f"{shape.title}'s architecture ({shape.source}) with random weights, seed {shapes.SEED}",
        content_hash=_hash(folder),
        notes=(RANDOM_NOTE, _outlier_note(shape, folder, progress)),
        title=f"{shape.title} (random weights)",
    )


def make_awq(shape: ModelShape, group_size: int, folder: Path, progress: Callable[[Progress], None]) -> Made:
    """The AWQ checkpoint, straight from the seed: the 16-bit checkpoint need not exist."""
    specs = tuple(s for spec in shapes.tensor_specs(shape) for s in _awq_specs(spec, group_size))
    stored = {"quant_method": "awq", "bits": awq_layout.BITS, "group_size": group_size}
    config = shapes.config(shape) | {"quantization_config": {**stored, "zero_point": True, "version": "gemm"}}
    _write(shape, specs, _awq_tensors(shape, group_size), folder, progress)
    _write_config(folder, config)
    return Made(
        origin=f"{shape.title}'s architecture with random weights, seed {shapes.SEED}; "
        f"round-to-nearest in groups of {group_size}, no calibration: the weights are random",
        content_hash=_hash(folder),
        notes=(RANDOM_NOTE,),
        group_size=group_size,
        title=f"{shape.title} (random weights)",
    )


def _planted(shape: ModelShape) -> tuple[outliers.Planted, ...]:
    return outliers.planted_channels(shape, shapes.WEIGHT_STD, shapes.SEED)


def _is_quantized(spec: TensorSpec) -> bool:
    return spec.name.endswith("_proj.weight")


def _awq_specs(spec: TensorSpec, group_size: int) -> tuple[TensorSpec, ...]:
    if not _is_quantized(spec):
        return (spec,)
    out_features, in_features = spec.shape
    stem, groups, words = (
        spec.name.removesuffix("weight"),
        in_features // group_size,
        out_features // awq_layout.PER_WORD,
    )
    return (
        TensorSpec(f"{stem}qweight", "I32", (in_features, words)),
        TensorSpec(f"{stem}qzeros", "I32", (groups, words)),
        TensorSpec(f"{stem}scales", "F16", (groups, out_features)),
    )


def _awq_tensors(shape: ModelShape, group_size: int) -> Iterator[Any]:
    import torch

    for spec, values in zip(shapes.tensor_specs(shape), shapes.tensors(shape, _planted(shape)), strict=True):
        if _is_quantized(spec):
            for tensor in awq_layout.round_to_nearest(torch.from_numpy(values), group_size):
                yield tensor.numpy()
        else:
            yield values


def _write(
    shape: ModelShape,
    specs: Sequence[TensorSpec],
    arrays: Iterator[Any],
    folder: Path,
    progress: Callable[[Progress], None],
) -> None:
    def done(name: str) -> None:
        if name.startswith("model.layers.") and name.endswith("input_layernorm.weight"):
            layer = int(name.split(".")[2])
            progress(Progress(stage="prepare", detail=f"layers of {shape.title}", done=layer, total=shape.num_layers))

    safetensors_file.write(folder, specs, arrays, done)


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _hash(folder: Path) -> str:
    return content_hash([folder / "config.json", *folder.glob("*.safetensors")])


def _outlier_note(shape: ModelShape, folder: Path, progress: Callable[[Progress], None]) -> str:
    if num_bytes(shape) > _MEASURED_UP_TO_BYTES:
        return "outlier channels for LLM.int8() were planted at the demo's rates (not measured at this size)"
    progress(Progress(stage="prepare", detail="measuring the planted outlier channels"))
    prompts = parse_workload(_MEASURED_PROMPTS)
    ids = [prompts.token_ids(index, shape.vocab_size)[0] for index in range(4)]
    return f"outlier channels for LLM.int8() were planted: {outliers.measure_folder(folder, ids).line}"
