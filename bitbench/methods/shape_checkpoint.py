"""Writes a shape's checkpoints: its seeded 16-bit weights, or the same weights rounded to AWQ's storage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitbench.facts import costs
from bitbench.facts.messages import Made, Progress
from bitbench.facts.models import ModelShape
from bitbench.facts.scheme import FP16, w4a16
from bitbench.facts.workloads import parse_workload
from bitbench.methods import awq_layout, outliers, rtn, safetensors_file, shapes
from bitbench.methods.content_hash import content_hash

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
    arrays = shapes.tensors(shape, _planted(shape))
    safetensors_file.write(folder, shapes.tensor_specs(shape), arrays, _report_layers(shape, progress))
    _write_config(folder, shapes.config(shape))
    return Made(
        origin=f"{shape.title}'s architecture ({shape.source}) with random weights, seed {shapes.SEED}",
        content_hash=_hash(folder),
        notes=(RANDOM_NOTE, _outlier_note(shape, folder, progress)),
        title=f"{shape.title} (random weights)",
    )


def make_awq(
    shape: ModelShape, group_size: int, device: str, folder: Path, progress: Callable[[Progress], None]
) -> Made:
    """The checkpoint in AWQ's storage, straight from the seed: the 16-bit one need not exist."""
    import torch

    tensors = map(torch.from_numpy, shapes.tensors(shape, _planted(shape)))
    done = _report_layers(shape, progress)
    rtn.write(folder, shapes.tensor_specs(shape), tensors, group_size, done, device=device)
    _write_config(folder, shapes.config(shape) | {"quantization_config": awq_layout.quantization_config(group_size)})
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


def _report_layers(shape: ModelShape, progress: Callable[[Progress], None]) -> Callable[[str], None]:
    def done(name: str) -> None:
        if name.startswith("model.layers.") and name.endswith("input_layernorm.weight"):
            layer = int(name.split(".")[2])
            progress(Progress(stage="prepare", detail=f"layers of {shape.title}", done=layer, total=shape.num_layers))

    return done


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
