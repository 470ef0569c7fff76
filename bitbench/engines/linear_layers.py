"""The linear layers of a model that transformers loaded, each beside the float32 matrix its checkpoint's numbers mean.

The matrix is read from the checkpoint's file again and dequantized here in plain torch, so that it does not depend on
what a library made of the numbers in memory (Marlin and ATen's int4 store them in an order of their own), nor on the
library's arithmetic. Shapes: O out, I in.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bitbench.engines.base import LinearLayer
from bitbench.methods import awq_layout, int8_rows

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Elements dequantized at once: its temporaries stay below 100 MB.
_CHUNK_ELEMENTS = 1 << 22
# The 16 values of NF4: QLoRA (arXiv 2305.14314), appendix E.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class CheckpointTensors:
    """Reads single tensors of a checkpoint folder with safetensors files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, str] | None = None

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self._index()

    def read(self, name: str, device: Any) -> Any:
        """The tensor as stored."""
        from safetensors import safe_open

        with safe_open(self._folder / self._index()[name], framework="pt", device=str(device)) as file:
            return file.get_tensor(name)

    def _index(self) -> dict[str, str]:
        """Tensor name to file; empty where the folder has no safetensors files."""
        from safetensors import safe_open

        if self._files is None:
            self._files = {}
            if (self._folder / _INDEX).is_file():
                self._files = json.loads((self._folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            elif (self._folder / _WEIGHTS).is_file():
                with safe_open(self._folder / _WEIGHTS, framework="pt") as file:
                    self._files = dict.fromkeys(file.keys(), _WEIGHTS)
        return self._files


def linear_layers(model: Any) -> Iterator[LinearLayer]:
    """Every module that holds a matrix, but an lm_head in 16 bit."""
    tensors = CheckpointTensors(Path(model.config._name_or_path))
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if not hasattr(module, "in_features") or (module is head and type(module).__name__ != "Int8RowsLinear"):
            continue
        is_int8 = type(module).__name__ == "Linear8bitLt"
        yield LinearLayer(
            name=name,
            arithmetic="w8a8" if is_int8 else "16bit",
            in_features=module.in_features,
            forward=module,
            weight=_weight(name, module, tensors, model),
            bias=_bias(name, module, tensors, model),
            dtype=model.dtype,
            device=model.device,
            outlier_threshold=float(module.state.threshold) if is_int8 else 0.0,
        )


def _weight(name: str, module: Any, tensors: CheckpointTensors, model: Any) -> Callable[[], Any] | None:
    """How to get the float32 matrix [O][I]; None where the checkpoint or the storage is not one that is known here."""
    device, dtype, kind = model.device, model.dtype, type(module).__name__
    if "Awq" in kind and all(tensors.has(f"{name}.{part}") for part in ("qweight", "qzeros", "scales")):
        return lambda: _awq(*(tensors.read(f"{name}.{part}", device) for part in ("qweight", "qzeros", "scales")))
    stem = name if tensors.has(f"{name}.weight") else _tied_name(module, model)
    if not tensors.has(f"{stem}.weight"):
        return None

    def stored() -> Any:
        return tensors.read(f"{stem}.weight", device).to(dtype)

    by_kind: dict[str, Callable[[], Any]] = {
        "Linear": lambda: stored().float(),
        "Linear8bitLt": lambda: int8_by_row(stored()),
        "Int8RowsLinear": lambda: int8_rows.dequantize(*int8_rows.round_rows(stored(), module.scale_O.dtype)),
    }
    if kind == "Linear4bit" and module.weight.quant_state.quant_type == "nf4":
        by_kind[kind] = lambda: nf4_by_block(stored(), module.weight.quant_state.blocksize)
    return by_kind.get(kind)


def _bias(name: str, module: Any, tensors: CheckpointTensors, model: Any) -> Any:
    """[O] or None; from the checkpoint too, since gptqmodel's Marlin reorders its own."""
    own = getattr(module, "bias", None)
    if own is None or not tensors.has(f"{name}.bias"):
        return own
    return tensors.read(f"{name}.bias", model.device).to(model.dtype)


def _tied_name(module: Any, model: Any) -> str:
    """Where an lm_head that the file does not hold is stored: as the embedding."""
    if module is not model.get_output_embeddings():
        return ""
    table = model.get_input_embeddings()
    return next((name for name, other in model.named_modules() if other is table), "")


def int8_by_row(weight_OI: Any) -> Any:
    """Rounded to 127 steps of each row's largest magnitude (LLM.int8(), arXiv 2208.07339, section 2), float32.

    bitsandbytes takes the weight in float16.
    """
    scale_O1 = weight_OI.half().float().abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    return (weight_OI.half().float() / scale_O1).round_() * scale_O1


def nf4_by_block(weight_OI: Any, block: int) -> Any:
    """Each to the nearest of 16 values times the largest magnitude of its block of neighbours in a row, float32."""
    import torch

    code = torch.tensor(NF4, device=weight_OI.device)
    middles = (code[1:] + code[:-1]) / 2
    found_OI = torch.empty(weight_OI.shape, device=weight_OI.device)
    flat, found = weight_OI.reshape(-1), found_OI.view(-1)
    for first in range(0, flat.numel(), _CHUNK_ELEMENTS // block * block):
        part = flat[first : first + _CHUNK_ELEMENTS // block * block].float()
        padded = torch.nn.functional.pad(part, (0, -part.numel() % block)).reshape(-1, block)
        largest = padded.abs().amax(1, keepdim=True).clamp(min=1e-30)
        values = code[torch.bucketize(padded / largest, middles)] * largest
        found[first : first + part.numel()] = values.view(-1)[: part.numel()]
    return found_OI


def _awq(qweight_IP: Any, qzeros_GP: Any, scales_GO: Any) -> Any:
    """A few groups at a time."""
    import torch

    group_size = qweight_IP.shape[0] // scales_GO.shape[0]
    found_OI = torch.empty(scales_GO.shape[1], qweight_IP.shape[0], device=qweight_IP.device)
    step = max(1, _CHUNK_ELEMENTS // (group_size * scales_GO.shape[1]))
    for first in range(0, scales_GO.shape[0], step):
        groups = slice(first, first + step)
        inputs = slice(first * group_size, (first + step) * group_size)
        found_OI[:, inputs] = awq_layout.dequantize(qweight_IP[inputs], qzeros_GP[groups], scales_GO[groups])
    return found_OI
