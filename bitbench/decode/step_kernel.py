"""Launches kernels/step: greedy decode steps at batch 1 as one persistent kernel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitbench.decode.config import DecoderConfig
from bitbench.decode.forward import Forward, new_cache
from bitbench.decode.step_source import NUM_WARPS, fields, macros, source
from bitbench.decode.stream import GRANULE, Streams, streams
from bitbench.decode.weights import Weights
from bitbench.facts.errors import Unsupported

_CAPABILITY = (9, 0)
# Shared memory of a block on these GPUs, and what the kernel keeps beside its ring (struct Shared of step.cu).
_SHARED_BYTES = 227 * 1024
_MOST_STEPS = 4096
_STAMPS_A_LAYER = 12  # of step.cu

Arguments = Mapping[str, Any]
"""The kernel's arguments by their names: tensors, and integers."""
Launch = Callable[[Arguments], None]
"""Runs the kernel; on a GPU it only launches."""


def check(config: DecoderConfig, capability: tuple[int, int]) -> None:
    """Raises Unsupported, naming what the kernel can do."""
    if capability < _CAPABILITY:
        has = ".".join(map(str, capability))
        raise Unsupported(f"the step kernel needs compute capability 9.0 and this GPU has {has}")
    if config.head_dim not in (64, 128):
        raise Unsupported(f"the step kernel supports head sizes 64 and 128, not {config.head_dim}")
    if config.num_heads % config.num_kv_heads or config.num_heads // config.num_kv_heads > 8:
        raise Unsupported(
            f"the step kernel supports up to 8 query heads a key head, not {config.num_heads} to {config.num_kv_heads}"
        )
    sizes = (config.hidden_size, config.intermediate_size)
    if any(size % 32 for size in sizes):
        raise Unsupported(f"the step kernel needs sizes that are multiples of 32, not {sizes}")
    if config.group_size % 64:
        raise Unsupported(f"the step kernel needs groups of a multiple of 64, not {config.group_size}")


def num_granules(sizes: dict[str, str]) -> int:
    """How many granules the ring can have beside what else the kernel keeps in shared memory."""
    return (_SHARED_BYTES - shared_bytes(sizes)) // GRANULE


def shared_bytes(sizes: dict[str, str]) -> int:
    """An upper bound of sizeof(Shared), its barriers for 32 granules included."""
    n = {name: int(value) for name, value in sizes.items() if name != "EPS"}
    warps, head_dim, heads = n["WARPS"], n["HEAD_DIM"], n["HEADS"] // n["KV_HEADS"]
    partial = 4 * 2 * 8 * warps * 16
    attention = 16 * (head_dim + 32) + 4 * head_dim + warps * (512 + 64 + 4 * heads * head_dim)
    vector = 2 * max(n["HIDDEN"], n["HEADS"] * head_dim, n["INTER"])
    return 2 * 8 * 32 + 16 * warps + vector + max(partial, attention) + 256


@dataclass(slots=True)
class StepKernel:
    """One sequence on one GPU: `start` reads a prompt, `advance` chooses more tokens on the device.

    `num_blocks` must be able to run at once, which is so for one a multiprocessor.
    """

    forward: Forward
    device: str
    room: int
    num_blocks: int
    launch: Launch
    num_down_parts: int = field(init=False)
    _buffers: dict[str, Any] = field(init=False)
    _num_steps: int = 0

    def __post_init__(self) -> None:
        assert self.room % 32 == 0, "the kernel reads the cache 32 positions at a time"
        found = streams(self.forward.weights, self.forward.config, self.num_blocks)
        self.num_down_parts = found.num_down_parts
        self._buffers = _buffers(self.forward, found, self.device, self.room)

    def start(self, ids: Sequence[int]) -> None:
        """Read the prompt, as the plain decoder does, and choose the first token."""
        import torch

        b = self._buffers
        with torch.inference_mode():
            cache = new_cache(self.forward.config, 1, len(ids), self.forward.weights.final_norm.dtype, self.device)
            logits = self.forward.logits(torch.tensor([list(ids)], device=self.device), cache)[0, -1]
            b["keys"][:, :, : len(ids)] = cache.keys[:, 0].transpose(1, 2)
            b["values"][..., : len(ids)] = cache.values[:, 0].permute(0, 2, 3, 1)
            b["logits"].copy_(logits)
            b["token"].copy_(logits.argmax())
            b["output"][len(ids)] = b["token"][0]
            b["position"].fill_(len(ids))

    def advance(self, num_steps: int, keep_logits: bool = False) -> None:
        """So many more tokens. Only launches; the caller sees to it that the cache has room."""
        assert num_steps <= _MOST_STEPS, "times are kept for so many steps"
        self._num_steps = num_steps
        if num_steps:
            self.launch({**self._buffers, "num_steps": num_steps, "keep_logits": int(keep_logits)})

    def force(self, token: int) -> None:
        """The next step reads this token instead of the one chosen."""
        self._buffers["token"].fill_(token)

    def tokens(self, first: int, count: int) -> list[int]:
        """The tokens at these positions. Waits for the device."""
        found: list[int] = self._buffers["output"][first : first + count].tolist()
        return found

    def step_times_s(self) -> tuple[float, ...]:
        """Seconds of each step of the last `advance`, by the device's own clock. Waits for it."""
        times = self._buffers["times"][: self._num_steps + 1]
        return tuple((times.diff() * 1e-9).tolist())

    def kv_cache_bytes(self) -> int:
        """Keys and values, as allocated."""
        return int(self._buffers["keys"].nbytes + self._buffers["values"].nbytes)

    def stamps(self) -> Any:
        """Cycles at which each block reached each place of the last step, int32 [blocks, layers + 1, 12], where the
        kernel was compiled with PROFILE.
        """
        return self._buffers["stamps"].reshape(self.num_blocks, -1, _STAMPS_A_LAYER)

    def logits(self) -> Any:
        """float32 logits [vocab] of the last step that kept them."""
        return self._buffers["logits"]


def on_cuda(
    forward: Forward, device: str, room: int, num_warps: int = NUM_WARPS, extra: Mapping[str, str] | None = None
) -> StepKernel:
    """For the GPU `device`, compiled for this model; `extra` are more macros. Raises Unsupported."""
    import torch

    config = forward.config
    properties = torch.cuda.get_device_properties(device)
    check(config, (properties.major, properties.minor))
    # Every block needs a tile of gate and up.
    num_blocks = min(properties.multi_processor_count, config.intermediate_size // 8, 32 * num_warps)
    kernel = StepKernel(forward, device, room, num_blocks, _never)
    sizes = macros(config, forward.weights, kernel.num_down_parts, num_warps)
    granules = num_granules(sizes)
    options = [f"-D{name}={value}" for name, value in {**sizes, "NUM_GRANULES": str(granules), **(extra or {})}.items()]
    text = source()
    compiled = torch.cuda._compile_kernel(text, "decode_steps", nvcc_options=["--std=c++17", *options])
    shared, names = GRANULE * granules + shared_bytes(sizes), fields(text)
    compiled.set_shared_memory_config(shared)
    grid, block = (num_blocks, 1, 1), (32 * (num_warps + 1), 1, 1)
    kernel.launch = lambda arguments: compiled(grid, block, [*(arguments[name] for name in names), 0], shared)
    return kernel


def _never(arguments: Arguments) -> None:
    raise AssertionError("not compiled yet")


def _buffers(forward: Forward, found: Streams, device: str, room: int) -> dict[str, Any]:
    """The kernel's arguments but the last two."""
    import torch

    c, dtype, num_blocks = forward.config, forward.weights.final_norm.dtype, len(found.shares)
    max_splits = max(1, num_blocks // c.num_kv_heads)

    def zeros(*shape: int, dtype: Any = torch.int64) -> Any:
        return torch.zeros(shape, dtype=dtype, device=device)

    return {
        "streams": found.packed,
        "shares": _shares(found).to(device),
        **_vectors(forward.weights, zeros(0)),
        "cos_sin": forward.cos_sin[:, :room].contiguous(),
        "keys": zeros(c.num_layers, c.num_kv_heads, room, c.head_dim, dtype=dtype),
        "values": zeros(c.num_layers, c.num_kv_heads, c.head_dim, room, dtype=dtype),
        "qkv": zeros(c.q_size + 2 * c.kv_size),
        "attended": zeros(c.q_size // 2),
        "from_o": zeros(c.hidden_size),
        "inner": zeros(c.intermediate_size // 2),
        "from_down": zeros(found.num_down_parts, c.hidden_size),
        "parts": zeros(c.num_heads, max_splits, c.head_dim + 2),
        "best": zeros(num_blocks, 2),
        "logits": zeros(c.vocab_size, dtype=torch.float32),
        "token": zeros(1, dtype=torch.int32),
        "position": zeros(1, dtype=torch.int32),
        "output": zeros(room + 1, dtype=torch.int32),
        "times": zeros(_MOST_STEPS + 1),
        "steps_done": zeros(1, dtype=torch.int32),
        "stamps": zeros(num_blocks, _STAMPS_A_LAYER * (c.num_layers + 1), dtype=torch.int32),
        "stream_granules": found.packed.shape[1] // GRANULE,
        "context": room,
        "max_splits": max_splits,
    }


def _vectors(w: Weights, none: Any) -> dict[str, Any]:
    """Norms, biases and an embedding that is a table of its own; `none` for what the model has not."""
    import torch

    norms = [v for layer in w.layers for v in (layer.input_norm, layer.post_norm)]
    biases = [layer.qkv_bias for layer in w.layers if layer.qkv_bias is not None]
    heads = [v for layer in w.layers for v in (layer.q_norm, layer.k_norm) if v is not None]
    tied = w.embedding is w.head
    return {
        "embedding": none if tied else w.embedding.dequantized().to(w.final_norm.dtype),
        "norms": torch.stack([*norms, w.final_norm]),
        "qkv_bias": torch.stack(biases) if biases else none,
        "qk_norms": torch.stack(heads) if heads else none,
    }


def _shares(found: Streams) -> Any:
    """`struct Share` of every block, int32 [blocks, 12]."""
    import torch

    rows = [
        [n for part in (s.qkv, s.o, s.gate_up, s.down, s.head) for n in (part.first, part.count)] + [granules, offset]
        for s, granules, offset in zip(found.shares, found.num_granules, found.head_offset, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.int32)
