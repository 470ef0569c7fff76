"""Marks in a profile which module is at work."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bitbench.facts.profile import LABEL_PREFIX, ModuleRole


@contextmanager
def annotated(model: Any) -> Iterator[None]:
    """While this is open, each forward of a module with a role of its own is an annotation in torch's profiler."""
    with ExitStack() as stack:
        for module, role in _roles(model):
            for handle in _hooks(module, LABEL_PREFIX + role):
                stack.callback(handle.remove)
        yield


def _roles(model: Any) -> Iterator[tuple[Any, ModuleRole]]:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    for name, module in model.named_modules():
        role = _role(module, name)
        if module is head:
            role = "lm_head"
        elif module is embedding:
            role = "embedding"
        elif module is model:
            role = "model"
        if role is not None:
            yield module, role


def _role(module: Any, name: str) -> ModuleRole | None:
    """By what the module is: one that holds a matrix, one whose class says norm, attention or activation."""
    kind = type(module).__name__
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return "projections"
    if kind.endswith("Norm"):
        return "norm"
    if kind.endswith("Attention"):
        return "attention"
    if kind.endswith(("MLP", "RotaryEmbedding", "DecoderLayer")) or name.endswith("act_fn"):
        return "elementwise"
    return None


def _hooks(module: Any, label: str) -> Iterator[Any]:
    from torch.profiler import record_function

    open_labels: list[Any] = []

    def enter(*_: Any) -> None:
        open_labels.append(record_function(label))
        open_labels[-1].__enter__()

    def leave(*_: Any) -> None:
        open_labels.pop().__exit__(None, None, None)

    yield module.register_forward_pre_hook(enter)
    # always_call: an exception in the module must not leave the label open.
    yield module.register_forward_hook(leave, always_call=True)
