"""Round-to-nearest INT4 checkpoints: AWQ's storage and kernels, with integers chosen from the weights alone.

The reference that a calibrated method must beat: bytes and kernels are AWQ's, so what AWQ is better by is what its
calibration found. The formula and its source are at `awq_layout.round_to_nearest`. The arithmetic is float32 on the CPU
for every device, so that the same weights give the same file everywhere.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Checkpoint, Made, Progress
from bitbench.facts.models import ModelShape
from bitbench.methods import awq_layout, safetensors_file
from bitbench.methods import folder as model_folder
from bitbench.methods.content_hash import content_hash
from bitbench.methods.folder import ModelFolder
from bitbench.methods.safetensors_file import TensorSpec

NAME = "rtn"
# Measured on one core: the demo's 106M weights in 0.75 to 1.0 s.
_PARAMETERS_PER_S = 1e8
# Tokenizer, chat template and code of its own: everything small that is needed beside config and weights.
_COPIED = (".json", ".model", ".txt", ".jinja", ".tiktoken", ".py")
_NOT_COPIED = ("config.json", "origin.json")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_PROJECTIONS_PER_LAYER = 7  # q, k, v, o, gate, up, down


def recipe(source_hash: str, group_size: int, device: str) -> str:
    """What decides the checkpoint's content: the 16-bit numbers and the group size, on every device alike."""
    return f"rtn 1: {source_hash} {awq_layout.BITS} bits g{group_size} asymmetric"


def work(shape: ModelShape | None, device: str) -> str:
    """One line of what rounding takes; without a time where the sizes are not known."""
    if shape is None:
        return "round to nearest"
    parameters = shape.num_layers * sum(i * o for _, i, o in shape.linear_shapes)
    return f"round to nearest, about {max(1, round(parameters / _PARAMETERS_PER_S))} s"


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
    """Round the 16-bit checkpoint `source` into `folder`, tensor by tensor. Raises LoadError where it can't be done."""
    found = model_folder.inspect(Path(source.path), allow_pickle=True, trust_remote_code=trust_remote_code)
    files = _files_of_tensors(found, num_layers)
    specs = tuple(files)
    done = _layer_by_layer(specs, group_size, num_layers, progress)
    write(folder, specs, _tensors(files), group_size, done, device=device)
    config = found.config | {"quantization_config": awq_layout.quantization_config(group_size)}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    _copy_small_files(found.path, folder)
    return Made(
        origin=f"round-to-nearest INT4 g{group_size} by bitbench, no calibration, from: {source.origin}",
        content_hash=content_hash([folder / "config.json", *folder.glob("*.safetensors")]),
        notes=source.notes,
        group_size=group_size,
        title=source.title,
        has_tokenizer=source.has_tokenizer,
    )


def write(
    folder: Path,
    specs: Sequence[TensorSpec],
    tensors: Iterable[Any],
    group_size: int,
    done: Callable[[str], None],
    *,
    device: str,
) -> None:
    """Write 16-bit torch tensors, in the order of `specs`, with the projections among them rounded to AWQ's storage on
    `device` where that is a GPU, which makes no difference but in time.

    `done(name)` is called after each stored tensor. Raises LoadError naming a tensor that can't be stored so.
    """
    stored = _stored_specs(specs, group_size)
    pairs = zip(specs, tensors, strict=True)
    where = device if device.startswith("cuda") else "cpu"
    arrays = (array for spec, tensor in pairs for array in _arrays(spec, tensor, group_size, where))
    safetensors_file.write(folder, stored, arrays, done)


def _stored_specs(specs: Sequence[TensorSpec], group_size: int) -> tuple[TensorSpec, ...]:
    return tuple(stored for spec in specs for stored in awq_layout.stored_specs(spec, group_size))


def _arrays(spec: TensorSpec, tensor: Any, group_size: int, device: str) -> Iterator[Any]:
    import torch

    if not awq_layout.is_projection(spec.name):
        yield tensor.contiguous().view(torch.int16).numpy()  # the same bytes: numpy has no bfloat16
        return
    try:
        rounded = awq_layout.round_to_nearest(tensor.to(device), group_size)
    except ValueError as error:
        raise LoadError(f"{spec.name}: {error}") from error
    for part in rounded:
        yield part.cpu().numpy()


def _files_of_tensors(found: ModelFolder, num_layers: int) -> dict[TensorSpec, Path]:
    """The folder's tensors as 16 bit, layer after layer, with the file of each. Raises LoadError where some lack."""
    if pickles := [file for file in found.weights if file.suffix != ".safetensors"]:
        raise LoadError(f"{pickles[0]} is a pickle: round-to-nearest reads safetensors only")
    files = {}
    for file in found.weights:
        for name, entry in safetensors_file.read_header(file).items():
            # Other types become float16, as `fp16` loads them.
            files[TensorSpec(name, "BF16" if entry["dtype"] == "BF16" else "F16", tuple(entry["shape"]))] = file
    number, expected = sum(awq_layout.is_projection(spec.name) for spec in files), num_layers * _PROJECTIONS_PER_LAYER
    if number != expected:
        raise LoadError(f"{found.path} has {number} weights named model.layers.N.*_proj.weight instead of {expected}")
    return dict(sorted(files.items(), key=lambda item: (_layer_of(item[0].name), item[0].name)))


def _tensors(files: Mapping[TensorSpec, Path]) -> Iterator[Any]:
    """The tensors as torch reads them, one in memory at a time."""
    import torch
    from safetensors import safe_open

    readers: dict[Path, Any] = {file: safe_open(file, framework="pt") for file in set(files.values())}
    for spec, file in files.items():
        tensor = readers[file].get_tensor(spec.name)
        yield tensor if tensor.dtype == torch.bfloat16 else tensor.to(torch.float16)


def _layer_of(name: str) -> int:
    """The number of the decoder's block; -1 for what is in none."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def _layer_by_layer(
    specs: Sequence[TensorSpec], group_size: int, num_layers: int, progress: Callable[[Progress], None]
) -> Callable[[str], None]:
    """Reports a layer when its last tensor is written."""
    last = {_layer_of(spec.name): spec.name for spec in _stored_specs(specs, group_size)}

    def report(layers: int) -> None:
        detail = "round to nearest, layer by layer"
        progress(Progress(stage="quantize", detail=detail, done=layers, total=num_layers))

    def done(name: str) -> None:
        layer = _layer_of(name)
        if layer >= 0 and name == last[layer]:
            report(layer + 1)

    report(0)
    return done


def _copy_small_files(source: Path, folder: Path) -> None:
    for file in sorted(source.iterdir()):
        wanted = file.suffix in _COPIED and file.name not in _NOT_COPIED and not file.name.endswith(".index.json")
        if wanted and file.is_file():
            shutil.copyfile(file, folder / file.name)
