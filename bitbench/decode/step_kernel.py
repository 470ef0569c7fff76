"""Launches kernels/step: greedy decode steps of up to eight sequences as one persistent kernel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bitbench.decode.config import DecoderConfig
from bitbench.decode.cuda_source import compiled, fields, source
from bitbench.decode.deal import down_parts
from bitbench.decode.forward import Forward
from bitbench.decode.prompts import Prompts
from bitbench.decode.step_source import FILE, NUM_WARPS, macros
from bitbench.decode.steps import FirstOfAll
from bitbench.decode.stream import GRANULE, Blocks, Streams, streamed
from bitbench.decode.tiles import MOST_TILES, ROWS
from bitbench.decode.weights import Weights
from bitbench.facts.errors import Unsupported

_CAPABILITY = (9, 0)
# Shared memory of a block on these GPUs; what of its beginning the ring repeats at its end (sizes.cuh).
_SHARED_BYTES = 227 * 1024
_TAIL = 4096
MAX_BATCH = 8
"""A product on tensor cores has so many columns."""
# More would be missed where the weights are multiplied.
_MOST_ATTENDING, _MOST_O_PARTS = 8, 4
_MOST_STEPS = 4096
# Granules under way at a time, by the bytes of a layer that a block multiplies: what blocks exchange queues up behind
# more, and with less the memory idles. Measured on an H100 at 57, 113, 226, 890 and 3,530 KB (docs/log.md).
_IN_FLIGHT = ((2_000_000, 8), (500_000, 4), (150_000, 2), (0, 1))
_STAMPS = (5, 10)  # NUM_PRODUCTS and PLACES of step.cu

Arguments = Mapping[str, Any]
"""The kernel's arguments by their names: tensors, and integers."""
Launch = Callable[[Arguments], None]
"""Runs the kernel; on a GPU it only launches."""


def check(config: DecoderConfig, capability: tuple[int, int], batch_size: int = 1) -> None:
    """Raises Unsupported, naming what the kernel can do."""
    if batch_size > MAX_BATCH:
        raise Unsupported(f"the step kernel decodes up to {MAX_BATCH} sequences at once, not {batch_size}")
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


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the kernel is laid out on a GPU: blocks that run at once, how many of them, the last ones, are for attention
    alone, into how many parts o is cut (1, or the key heads), warps in each that multiply, the length of the ring, and
    how many sequences are decoded.
    """

    num_blocks: int
    num_attending: int
    o_parts: int
    num_warps: int
    num_granules: int
    num_sequences: int = 1

    @property
    def multiplying(self) -> Blocks:
        """Half of the ring at once: while it is worked on, the rest is filled."""
        return Blocks(self.num_blocks - self.num_attending, self.num_warps, self.num_granules * GRANULE // 2)

    def macros(self) -> dict[str, str]:
        """As the kernel wants them."""
        return {
            "WARPS": str(self.num_warps),
            "NUM_GRANULES": str(self.num_granules),
            "SEQUENCES": str(self.num_sequences),
            "ATTENDING": str(self.num_attending),
        }


def geometry(config: DecoderConfig, num_blocks: int, num_warps: int = NUM_WARPS, *, num_sequences: int = 1) -> Geometry:
    """At most so many blocks: each that multiplies needs a tile of gate and up, and a thread of each hears of all.

    With few key heads each block that has a part of o attends for it itself; each part is one more vector that every
    block must read, so with more of them, or of sequences, some blocks attend for all.

    Raises Unsupported where the vectors of so many sequences leave too little shared memory for weights.
    """
    heads = config.num_kv_heads
    few = heads <= _MOST_O_PARTS and (config.q_size // heads) % 32 == 0
    cut = few and num_sequences == 1
    attending = heads if not few and heads <= _MOST_ATTENDING else 0
    count = min(num_blocks, config.intermediate_size // 8 + attending, 32 * num_warps)
    inputs = multiplied_inputs(config, count - attending, heads if cut else 1)
    free = _SHARED_BYTES - _TAIL - shared_bytes(config, inputs, num_warps, num_sequences)
    # What the warps have of a 16-bit matrix at a time (Tile::segment of product.cuh) must fit, and a granule more.
    if free // GRANULE * GRANULE < 2 * ROWS * min(inputs, 4 * num_warps * 128) + 2 * GRANULE:
        raise Unsupported(f"the step kernel cannot hold {num_sequences} vectors of {inputs} numbers beside the weights")
    return Geometry(count, attending, heads if cut else 1, num_warps, min(free // GRANULE, 32), num_sequences)


def multiplied_inputs(config: DecoderConfig, num_blocks: int, o_parts: int) -> int:
    """The longest vector that a block multiplies, parts of those of o and down counted for themselves."""
    down = config.intermediate_size // down_parts(
        config.hidden_size, config.intermediate_size, config.group_size or 32, num_blocks
    )
    return max(config.hidden_size, config.q_size // o_parts, down)


def in_flight(weights: Weights, num_blocks: int) -> int:
    """Granules that a block has under way at a time."""
    layer = weights.layers[0]
    a_block = sum(m.num_bytes for m in (layer.qkv, layer.o, layer.gate_up, layer.down)) / num_blocks
    return next(granules for least, granules in _IN_FLIGHT if a_block >= least)


def shared_bytes(config: DecoderConfig, inputs: int, num_warps: int, num_sequences: int) -> int:
    """What the kernel keeps in shared memory beside its ring, at most (struct Shared of step.cu); vectors have up to
    so many inputs.
    """
    sums = 2 * ROWS if num_sequences == 1 else num_sequences * (ROWS + 4)
    partial = 4 * MOST_TILES * num_warps * sums
    group, head_dim = config.num_heads // config.num_kv_heads, config.head_dim
    joined = 4 * 4 * 18  # a warp's part of what joins the parts of a long context
    attention = 16 * (head_dim + 32) + 4 * head_dim + num_warps * (512 + 64 + max(4 * group * head_dim, joined))
    vectors = num_sequences * (2 * inputs + 64)
    return 2 * 8 * 32 + (16 + 32) * num_warps + vectors + max(partial, attention) + 384


@dataclass(slots=True)
class StepKernel(FirstOfAll):
    """Sequences on one GPU: `start_all` reads their prompts, `advance` chooses more tokens on the device.

    All blocks must be able to run at once, which is so for one a multiprocessor.
    """

    forward: Forward
    device: str
    room: int
    geometry: Geometry
    launch: Launch
    batch_size: int = field(init=False)
    _prompts: Prompts = field(init=False)
    _macros: dict[str, str] = field(init=False)
    _buffers: dict[str, Any] = field(init=False)
    _num_steps: int = 0

    def __post_init__(self) -> None:
        assert self.room % 32 == 0, "the kernel reads the cache 32 positions at a time"
        shape = self.geometry
        self.batch_size = shape.num_sequences
        self._prompts = Prompts(self.forward, self.device, self.batch_size)
        weights = streamed(self.forward.weights, self.forward.config, shape.multiplying, shape.o_parts)
        self.forward.weights, found = weights, weights.streams  # the weights are in memory once from here on
        self._macros = {name.upper(): str(value) for name, value in asdict(found.cuts).items()}
        self._macros["IN_FLIGHT"] = str(in_flight(self.forward.weights, shape.multiplying.count))
        self._buffers = _buffers(self.forward, found, shape, self.device, self.room)

    def macros(self) -> dict[str, str]:
        """What the kernel must be compiled with."""
        return macros(self.forward.config, self.forward.weights) | self.geometry.macros() | self._macros

    def start_all(self, ids: Sequence[Sequence[int]]) -> None:
        """Read the prompts, as the plain decoder does, and choose their first tokens."""
        import torch

        b, length = self._buffers, len(ids[0])
        with torch.inference_mode():
            logits_BV, read = self._prompts.read(ids)
            b["keys"][:, :, :, :length] = read.keys[:, :, :length].transpose(2, 3)
            b["values"][..., :length] = read.values[:, :, :length].permute(0, 1, 3, 4, 2)
            b["logits"].copy_(logits_BV)
            b["token"].copy_(logits_BV.argmax(dim=-1))
            b["output"][:, length] = b["token"]
            b["position"].fill_(length)

    def advance(self, num_steps: int, keep_logits: bool = False) -> None:
        """So many more tokens. Only launches; the caller sees to it that the cache has room."""
        assert num_steps <= _MOST_STEPS, "times are kept for so many steps"
        self._num_steps = num_steps
        if num_steps:
            self.launch({**self._buffers, "num_steps": num_steps, "keep_logits": int(keep_logits)})

    def force_all(self, tokens: Sequence[int]) -> None:
        """The next step reads these tokens instead of those chosen."""
        import torch

        self._buffers["token"].copy_(torch.as_tensor(tokens))

    def all_tokens(self, first: int, count: int) -> list[list[int]]:
        """The tokens at these positions. Waits for the device."""
        found: list[list[int]] = self._buffers["output"][:, first : first + count].tolist()
        return found

    def step_times_s(self) -> tuple[float, ...]:
        """Seconds of each step of the last `advance`, by the device's own clock. Waits for it."""
        times = self._buffers["times"][: self._num_steps + 1]
        return tuple((times.diff() * 1e-9).tolist())

    def poison(self) -> None:
        """Fill what blocks exchange with NaNs that count as sent before: what is read too early is seen."""
        b, layers = self._buffers, self.forward.config.num_layers
        done = int(b["steps_done"][0])
        for name in ("qkv", "parts"):
            b[name].fill_(-1)  # a tag that never comes
        for name, sent in [("best", done)] + [(n, done * layers) for n in ("attended", "from_o", "inner", "from_down")]:
            b[name].fill_(-2 + sent % 2)

    def kv_cache_bytes(self) -> int:
        """Keys and values, as allocated."""
        return int(self._buffers["keys"].nbytes + self._buffers["values"].nbytes)

    def stamps(self) -> Any:
        """Cycles at which each block reached each place of each product in the last step, int32 [blocks, layers + 1,
        products, places], where the kernel was compiled with PROFILE.
        """
        return self._buffers["stamps"]

    def all_logits(self) -> Any:
        """float32 logits [batch, vocab] of the last step that kept them."""
        return self._buffers["logits"]


def on_cuda(
    forward: Forward,
    device: str,
    room: int,
    num_warps: int = NUM_WARPS,
    extra: Mapping[str, str] | None = None,
    *,
    batch_size: int = 1,
) -> StepKernel:
    """For the GPU `device`, so many sequences and at least `room` positions, compiled for this model; `extra` are more
    macros.

    Raises Unsupported.
    """
    import torch

    room = -(-room // 32) * 32

    properties = torch.cuda.get_device_properties(device)
    check(forward.config, (properties.major, properties.minor), batch_size)
    shape = geometry(forward.config, properties.multi_processor_count, num_warps, num_sequences=batch_size)
    kernel = StepKernel(forward, device, room, shape, _never)
    text, options = source(FILE), {**kernel.macros(), **(extra or {})}
    run, names = compiled(text, "decode_steps", options), fields(text)
    inputs = multiplied_inputs(forward.config, shape.multiplying.count, shape.o_parts)
    shared = GRANULE * shape.num_granules + _TAIL + shared_bytes(forward.config, inputs, num_warps, batch_size)
    run.set_shared_memory_config(shared)
    grid, block = (shape.num_blocks, 1, 1), (32 * (num_warps + 1 + int(options.get("PROFILE", "0"))), 1, 1)
    kernel.launch = lambda arguments: run(grid, block, [*(arguments[name] for name in names), 0], shared)
    return kernel


def _never(arguments: Arguments) -> None:
    raise AssertionError("not compiled yet")


def _buffers(forward: Forward, found: Streams, shape: Geometry, device: str, room: int) -> dict[str, Any]:
    """The kernel's arguments but the last two."""
    import torch

    c, dtype = forward.config, forward.weights.final_norm.dtype
    num_blocks, batch = shape.num_blocks, shape.num_sequences
    max_splits = max(1, num_blocks // (c.num_kv_heads * batch))

    def zeros(*shape: int, dtype: Any = torch.int64) -> Any:
        return torch.zeros(shape, dtype=dtype, device=device)

    return {
        "streams": found.packed,
        "shares": _shares(found, num_blocks).to(device),
        **_vectors(forward.weights, zeros(0)),
        "cos_sin": _padded(forward.cos_sin[:, :room], room),
        "keys": zeros(c.num_layers, batch, c.num_kv_heads, room, c.head_dim, dtype=dtype),
        "values": zeros(c.num_layers, batch, c.num_kv_heads, c.head_dim, room, dtype=dtype),
        "qkv": zeros(batch, c.q_size + 2 * c.kv_size),
        "attended": zeros(found.cuts.o_parts, batch, c.q_size // found.cuts.o_parts // 4),
        "from_o": zeros(found.cuts.o_parts, batch, c.hidden_size // 4),
        "inner": zeros(found.cuts.down_parts, batch, c.intermediate_size // found.cuts.down_parts // 4),
        "from_down": zeros(found.cuts.down_parts, batch, c.hidden_size // 4),
        "parts": zeros(batch, c.num_heads, max_splits, c.head_dim + 2),
        "best": zeros(batch, -(-num_blocks // 2) * 2),
        "logits": zeros(batch, c.vocab_size, dtype=torch.float32),
        "token": zeros(batch, dtype=torch.int32),
        "position": zeros(1, dtype=torch.int32),
        "output": zeros(batch, room + 1, dtype=torch.int32),
        "times": zeros(_MOST_STEPS + 1),
        "steps_done": zeros(1, dtype=torch.int32),
        "stamps": zeros(num_blocks, c.num_layers + 1, *_STAMPS, dtype=torch.int32),
        "granule_stamps": zeros(num_blocks, found.packed.shape[1] // GRANULE, 2, dtype=torch.int32),
        "stream_granules": found.packed.shape[1] // GRANULE,
        "context": room,
        "max_splits": max_splits,
        "multiplying": len(found.shares),
    }


def _padded(cos_sin: Any, room: int) -> Any:
    """[2, room, D / 2]: a cache of whole 32 positions may end behind the context, where nothing is read."""
    import torch

    return torch.nn.functional.pad(cos_sin, (0, 0, 0, room - cos_sin.shape[1])).contiguous()


def _vectors(w: Weights, none: Any) -> dict[str, Any]:
    """Norms, biases and an embedding that is a table of its own; `none` for what the model has not."""
    import torch

    norms = [v for layer in w.layers for v in (layer.input_norm, layer.post_norm)]
    biases = [layer.qkv_bias for layer in w.layers if layer.qkv_bias is not None]
    heads = [v for layer in w.layers for v in (layer.q_norm, layer.k_norm) if v is not None]
    tied = w.embedding is w.head
    return {
        "embedding": none if tied else w.embedding.in_type(w.final_norm.dtype),
        "norms": torch.stack([*norms, w.final_norm]),
        "qkv_bias": torch.stack(biases) if biases else none,
        "qk_norms": torch.stack(heads) if heads else none,
    }


def _shares(found: Streams, num_blocks: int) -> Any:
    """`struct Share` of every block, int32 [blocks, 17]; all 0 for those that do not multiply."""
    import torch

    names = ("qkv", "o", "gate_up", "down", "head")
    batches = [found.batches[name] for name in names]
    rows = torch.zeros(num_blocks, 3 * len(names) + 2, dtype=torch.int32)
    for row, share, granules, offset in zip(rows, found.shares, found.num_granules, found.head_offset, strict=False):
        parts = [getattr(share, name) for name in names]
        fields = [p.first for p in parts] + [p.count for p in parts] + batches + [granules, offset]
        row.copy_(torch.tensor(fields, dtype=torch.int32))
    return rows
