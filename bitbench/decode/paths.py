"""Which kernels decode: by the GPU's compute capability, the model and the batch, never by trying."""

from typing import Any, Literal

from bitbench.decode import geometry, step_kernel, step_source, triton_steps
from bitbench.decode.config import DecoderConfig
from bitbench.decode.forward import Forward
from bitbench.decode.hardware import Hardware, hardware_of
from bitbench.decode.matrix import Fp8Rows
from bitbench.decode.steps import PlainSteps, Steps
from bitbench.facts.errors import Unsupported

Path = Literal["plain", "step kernel", "Triton"]
# A cache that grows in such steps is seldom made anew.
_ROOM_STEP = 256


def choose(config: DecoderConfig, dtype: Any, gpu: Hardware | None, batch_size: int, fp8: bool) -> Path:
    """The step kernel where it runs; else a GPU has Triton. `gpu` is None without one; `fp8` says whether weights are
    stored as 8-bit floats.

    Raises Unsupported where neither runs.
    """
    if gpu is None:
        return "plain"
    if not fp8 and _step_kernel_runs(config, gpu, batch_size):
        return "step kernel"
    triton_steps.check(config, dtype, gpu.capability, batch_size)
    return "Triton"


def _step_kernel_runs(config: DecoderConfig, gpu: Hardware, batch_size: int) -> bool:
    try:
        geometry.check(config, gpu, batch_size)
        geometry.geometry(config, gpu, num_sequences=batch_size)
    except Unsupported:
        return False
    return True


def choose_on(forward: Forward, device: str, batch_size: int) -> Path:
    """On a device of this machine."""
    w = forward.weights
    return choose(forward.config, w.final_norm.dtype, hardware_of(device), batch_size, w.head.kind is Fp8Rows)


def new_steps(forward: Forward, device: str, room: int, batch_size: int = 1) -> Steps:
    """What takes steps of so many sequences, with a cache for `room` positions. Raises Unsupported."""
    path = choose_on(forward, device, batch_size)
    if path == "plain":
        dtype = forward.weights.final_norm.dtype
        return PlainSteps(forward.config, forward, dtype, device, room, batch_size=batch_size)
    if path == "step kernel":
        return step_kernel.on_cuda(forward, device, room, batch_size=batch_size)
    return triton_steps.on_cuda(forward, device, room, batch_size)


def source_hash(path: Path, gpu: Hardware | None) -> str | None:
    """Identifies the kernels' source in a record; None for the plain forward, which needs no GPU."""
    if path == "plain" or not gpu:
        return None
    return step_source.source_hash(gpu.capability) if path == "step kernel" else triton_steps.source_hash()


def rounded(room: int, context_len: int) -> int:
    """A few positions more than asked for, as far as the model's context goes."""
    return min(-(-room // _ROOM_STEP) * _ROOM_STEP, context_len)
