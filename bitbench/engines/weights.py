"""Walks a torch model for the storages that hold its weights, quantization state included."""

from collections.abc import Iterator
from typing import Any

# Buffers that every rotary embedding keeps; computed from the config, not weights.
_NOT_WEIGHTS = ("inv_freq", "original_inv_freq")
# Where bitsandbytes keeps what belongs to a weight: Params4bit.quant_state, Int8Params.SCB and CB,
# and MatmulLtState once the first forward has moved them there (bitsandbytes/nn/modules.py).
_STATE_ATTRIBUTES = ("quant_state", "state2", "SCB", "CB", "absmax", "code", "offset")


def _tensors_of(owner: Any) -> Iterator[Any]:
    """Tensors in the known state attributes of a parameter, a quantization state or a matmul state."""
    import torch

    for name in _STATE_ATTRIBUTES:
        value = getattr(owner, name, None)
        if isinstance(value, torch.Tensor):
            yield value
        elif value is not None and not isinstance(value, str | int | float | bool):
            yield from _tensors_of(value)


def weight_tensors(model: Any) -> Iterator[Any]:
    """Every tensor that holds weights or their quantization state; one storage may come more than once."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in _NOT_WEIGHTS:
                yield buffer
        for parameter in module.parameters(recurse=False):
            yield parameter
            yield from _tensors_of(parameter)
        if (state := getattr(module, "state", None)) is not None:
            yield from _tensors_of(state)


def weights_bytes(model: Any) -> int:
    """Bytes of the distinct storages that `weight_tensors` finds."""
    sizes = {}
    for tensor in weight_tensors(model):
        storage = tensor.untyped_storage()
        sizes[(str(tensor.device), storage.data_ptr())] = storage.nbytes()
    return sum(sizes.values())


def unread_embedding_bytes(model: Any) -> int:
    """Bytes of the input embedding where it does not share its storage with lm_head; else 0."""
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    tied = head is not None and head.weight.untyped_storage().data_ptr() == embedding.untyped_storage().data_ptr()
    return 0 if tied else int(embedding.untyped_storage().nbytes())
