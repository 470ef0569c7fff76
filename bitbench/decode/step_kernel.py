"""Launches kernels/step: greedy decode steps of up to eight sequences as one persistent kernel."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bitbench.decode.cuda_source import Arguments, compiled
from bitbench.decode.deal import Share, most_tiles
from bitbench.decode.forward import Forward
from bitbench.decode.geometry import Geometry, check, geometry, in_flight
from bitbench.decode.hardware import Hardware, hardware_of
from bitbench.decode.placing import tried
from bitbench.decode.prompts import Prompts
from bitbench.decode.step_source import FILE, NUM_WARPS, macros
from bitbench.decode.steps import FirstOfAll
from bitbench.decode.stream import GRANULE, Streams, streamed
from bitbench.decode.weights import Weights

CHUNK = 32
"""Positions that a warp attends to at a time: values of so many lie together."""
_MOST_STEPS = 4096
# Where a GPU also draws a screen the driver stops what runs for some seconds.
_STEPS_A_LAUNCH = 128
_TOGETHER = 5
POLLED = ("qkv", "attended", "from_o", "inner", "from_down")
"""What blocks exchange in a layer."""
_PLACES_TRIED, _ROUNDS_TRIED, _STEPS_TRIED = 8, 6, 16
_STAMPS = (5, 10)  # NUM_PRODUCTS and PLACES of step.cu

Launch = Callable[[Arguments], None]
"""Runs the kernel; on a GPU it only launches."""


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
    one_launch: bool = field(init=False, default=True)
    _prompts: Prompts = field(init=False)
    _macros: dict[str, str] = field(init=False)
    _buffers: dict[str, Any] = field(init=False)
    _num_steps: int = 0

    def __post_init__(self) -> None:
        assert self.room % CHUNK == 0, "the kernel reads the cache so many positions at a time"
        shape = self.geometry
        self.batch_size = shape.num_sequences
        self._prompts = Prompts(self.forward, self.device, self.batch_size)
        weights = streamed(
            self.forward.weights, self.forward.config, shape.multiplying, shape.o_parts, shape.down_parts
        )
        self.forward.weights, found = weights, weights.streams  # the weights are in memory once from here on
        self._macros = {name.upper(): str(value) for name, value in asdict(found.cuts).items()}
        for name in Share.__dataclass_fields__:
            most, batch = most_tiles(found.shares, name), found.batches[name]
            # Up to five the kernel takes for a batch, and sums up a warp's part of the vector once for each (tile.cuh).
            self._macros[f"MOST_{name.upper()}"] = str(max(most, _TOGETHER + 1) if most > batch else most)
            self._macros[f"BATCH_{name.upper()}"] = str(batch)
        wanted = in_flight(self.forward.weights, shape.multiplying.count, shape.num_sequences)
        waiting, multiplying = (min(granules, shape.num_granules - 1) for granules in wanted)
        self._macros |= {"IN_FLIGHT": str(waiting), "IN_FLIGHT_BUSY": str(multiplying)}
        self._buffers = _buffers(self.forward, found, shape, self.device, self.room)

    def macros(self) -> dict[str, str]:
        """What the kernel must be compiled with."""
        sizes = macros(self.forward.config, self.forward.weights) | self.geometry.macros() | self._macros
        return sizes | {"CHUNK": str(CHUNK)}

    def settle(self, tries: int = _PLACES_TRIED, num_steps: int = _STEPS_TRIED, rounds: int = 0) -> tuple[float, ...]:
        """Put what blocks exchange where steps take least, at last by so many `rounds` of moving one buffer at a time.
        Returns a step's seconds at each place that was tried before these.

        Forgets prompts; the cache needs room for so many steps.
        """

        def seconds(places: Mapping[str, Any]) -> float:
            self._buffers |= places
            self._forget()
            self.advance(num_steps)
            return statistics.median(self.step_times_s())

        found, took = tried(self._buffers, POLLED, seconds, tries, rounds)
        self._buffers |= found
        self._forget()
        return took

    def _forget(self) -> None:
        """As new: nothing was exchanged, and no step taken."""
        for name in (*POLLED, "parts", "best", "token", "position", "steps_done"):
            self._buffers[name].zero_()

    def start_all(self, ids: Sequence[Sequence[int]]) -> None:
        """Read the prompts, as the plain decoder does, and choose their first tokens."""
        import torch

        b, length = self._buffers, len(ids[0])
        with torch.inference_mode():
            logits_BV, read = self._prompts.read(ids)
            b["keys"][:, :, :, :length] = read.keys[:, :, :length].transpose(2, 3)
            whole = torch.nn.functional.pad(read.values[:, :, :length], (0, 0, 0, 0, 0, -length % CHUNK))
            chunks = whole.unflatten(2, (-1, CHUNK)).permute(0, 1, 4, 2, 5, 3)
            b["values"][:, :, :, : chunks.shape[3]] = chunks
            b["values"][:, :, :, chunks.shape[3] :] = 0  # attention multiplies them by 0
            b["logits"].copy_(logits_BV)
            b["token"].copy_(logits_BV.argmax(dim=-1))
            b["output"][:, length] = b["token"]
            b["position"].fill_(length)

    def advance(self, num_steps: int, keep_logits: bool = False) -> None:
        """So many more tokens. Only launches; the caller sees to it that the cache has room."""
        assert num_steps <= _MOST_STEPS, "times are kept for so many steps"
        self._num_steps = num_steps
        for done in range(0, num_steps, _STEPS_A_LAUNCH):
            times, count = self._buffers["times"][done:], min(_STEPS_A_LAUNCH, num_steps - done)
            self.launch({**self._buffers, "times": times, "num_steps": count, "keep_logits": int(keep_logits)})

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
    places: int = _PLACES_TRIED,
    gpu: Hardware | None = None,
) -> StepKernel:
    """For the GPU `device`, so many sequences and at least `room` positions, compiled for this model; `extra` are more
    macros. Of so many `places` of what blocks exchange the best is found by taking steps; with 0 nothing is tried.
    `gpu` has it made as for another, an earlier and smaller one, which newer ones can run.

    Raises Unsupported.
    """
    room = -(-room // CHUNK) * CHUNK
    gpu = gpu or hardware_of(device)
    assert gpu, device
    check(forward.config, gpu, batch_size)
    shape = geometry(forward.config, gpu, num_warps, num_sequences=batch_size)
    kernel = StepKernel(forward, device, room, shape, _never)
    options = {**kernel.macros(), **(extra or {})}
    shared_bytes = shape.shared_bytes(forward.config)
    run = compiled(FILE, "decode_steps", options, device, shared_bytes=shared_bytes, capability=gpu.capability)
    kernel.launch = lambda arguments: run(shape.num_blocks, 32 * (num_warps + 1), arguments)
    if places:
        kernel.settle(places, rounds=_ROUNDS_TRIED)
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
        "values": zeros(c.num_layers, batch, c.num_kv_heads, room // CHUNK, c.head_dim, CHUNK, dtype=dtype),
        "qkv": zeros(batch, c.q_size + 2 * c.kv_size),
        "attended": zeros(found.cuts.o_parts, batch, c.q_size // found.cuts.o_parts // 4),
        "from_o": zeros(found.cuts.o_parts, batch, c.hidden_size // 4),
        "inner": zeros(found.cuts.down_parts, batch, c.intermediate_size // found.cuts.down_parts // 4),
        "from_down": zeros(found.cuts.down_parts, batch, c.hidden_size // 4 * shape.spread),
        "parts": zeros(batch, c.num_heads, max_splits, c.head_dim + 2),
        "best": zeros(batch, -(-num_blocks // 2) * 2),
        "logits": zeros(batch, c.vocab_size, dtype=torch.float32),
        "token": zeros(batch, dtype=torch.int32),
        "position": zeros(1, dtype=torch.int32),
        "output": zeros(batch, room + 1, dtype=torch.int32),
        "times": zeros(_MOST_STEPS + 1),
        "steps_done": zeros(1, dtype=torch.int32),
        "stamps": zeros(num_blocks, c.num_layers + 1, *_STAMPS, dtype=torch.int32),
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
    """`struct Share` of every block, int32 [blocks, 12]; all 0 for those that do not multiply."""
    import torch

    names = ("qkv", "o", "gate_up", "down", "head")
    rows = torch.zeros(num_blocks, 2 * len(names) + 2, dtype=torch.int32)
    for row, share, granules, offset in zip(rows, found.shares, found.num_granules, found.head_offset, strict=False):
        parts = [getattr(share, name) for name in names]
        fields = [p.first for p in parts] + [p.count for p in parts] + [granules, offset]
        row.copy_(torch.tensor(fields, dtype=torch.int32))
    return rows
