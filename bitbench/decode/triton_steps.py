"""Greedy decode steps of up to 16 sequences by Triton kernels (kernels/triton), a step captured once as a CUDA graph.

On a CPU the same kernels run one by one under Triton's interpreter, where TRITON_INTERPRET=1 asks for it: a check, not
a way to decode. Shapes: B sequences, L positions of the cache.
"""

import hashlib
import os
import shutil
import sysconfig
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from bitbench.decode.config import DecoderConfig
from bitbench.decode.forward import Forward, new_cache
from bitbench.decode.graphs import captured
from bitbench.decode.operands import Operand, new_parts, operand
from bitbench.decode.prompts import Prompts
from bitbench.decode.steps import WithCache
from bitbench.decode.tuning import Tuning, for_gpu, product_keys
from bitbench.facts.errors import Unsupported

MAX_BATCH = 16
_FOLDER = Path(__file__).parent / "kernels" / "triton"
_CAPABILITY, _BF16_CAPABILITY = (7, 5), (8, 0)


def source_hash() -> str:
    """Identifies the kernels' source in a record."""
    texts = [path.read_bytes() for path in sorted(_FOLDER.glob("*.py"))]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:12]


def check(config: DecoderConfig, dtype: Any, capability: tuple[int, int], batch_size: int = 1) -> None:
    """Raises Unsupported, naming what these kernels can do."""
    import torch

    has = ".".join(map(str, capability))
    if capability < _CAPABILITY:
        raise Unsupported(f"the Triton kernels need compute capability 7.5 and this GPU has {has}")
    if dtype == torch.bfloat16 and capability < _BF16_CAPABILITY:
        raise Unsupported(f"bfloat16 needs compute capability 8.0 and this GPU has {has}: float16 runs here")
    if batch_size > MAX_BATCH:
        raise Unsupported(f"the Triton kernels decode up to {MAX_BATCH} sequences at once, not {batch_size}")
    if config.num_heads % config.num_kv_heads:
        raise Unsupported(
            f"the Triton kernels need equally many query heads for each key head, not {config.num_heads} for "
            f"{config.num_kv_heads}"
        )


def check_tools() -> None:
    """Whether what Triton needs to compile is here. Raises Unsupported, naming what to install."""
    if not find_spec("triton"):
        raise Unsupported("the decoder needs Triton on this GPU: pip install triton")
    if not os.environ.get("CC") and not any(shutil.which(name) for name in ("clang", "gcc")):
        raise Unsupported("Triton needs a C compiler: install gcc (apt install gcc), or set CC")
    headers = sysconfig.get_paths()["include"]
    if not (Path(headers) / "Python.h").exists():
        raise Unsupported(f"Triton needs Python.h in {headers}: install Python's headers (apt install python3-dev)")


@dataclass(frozen=True, slots=True)
class _Operands:
    """The matrices of one layer."""

    qkv: Operand
    o: Operand
    gate_up: Operand
    down: Operand


class TritonSteps(WithCache):
    """A batch of sequences on one device; on a GPU use `on_cuda`."""

    def __init__(
        self,
        forward: Forward,
        device: str,
        room: int,
        batch_size: int = 1,
        *,
        tuning: Tuning,
        multiprocessors: int,
    ) -> None:
        import torch

        self.room, self.batch_size = room, batch_size
        self._forward, self._device, self._multiprocessors = forward, device, multiprocessors
        c, w = forward.config, forward.weights
        self._head = operand(w.head)
        self._embedding = self._head if w.embedding is w.head else operand(w.embedding)
        self._layers = [_Operands(*(operand(m) for m in (x.qkv, x.o, x.gate_up, x.down))) for x in w.layers]
        dtype = w.final_norm.dtype
        self._cache = new_cache(c, batch_size, room, dtype, device)
        self._prompts = Prompts(forward, device, batch_size)

        def empty(width: int) -> Any:
            return torch.zeros(batch_size, width, dtype=dtype, device=device)

        self._x, self._next_x, self._normed, self._delta = (empty(c.hidden_size) for _ in range(4))
        self._qkv, self._attended = empty(c.q_size + 2 * c.kv_size), empty(c.q_size)
        self._inner = empty(c.intermediate_size)
        self._logits = torch.zeros(batch_size, c.vocab_size, device=device)
        self._token = torch.zeros(batch_size, dtype=torch.long, device=device)
        self._position = torch.zeros(1, dtype=torch.long, device=device)
        self._output = torch.zeros(batch_size, room + 1, dtype=torch.long, device=device)
        self._step: Callable[[], None] = self.launch
        self._marks: list[Any] = []
        self.use(tuning)

    @property
    def tuning(self) -> Tuning:
        """What the kernels are launched with."""
        return self._tuning

    def use(self, tuning: Tuning) -> None:
        """Launch the kernels with other block sizes; after a capture, capture again."""
        c, self._tuning = self._forward.config, tuning
        num_parts = tuning.num_parts(self.room, self.batch_size * c.num_kv_heads, self._multiprocessors)
        self._parts = new_parts(self.batch_size, c.num_heads, c.head_dim, num_parts, self._device)

    def product_keys(self) -> set[str]:
        """Which of the tuning's products a step has."""
        return product_keys(self._forward.weights, self.batch_size)

    def start_all(self, ids: Sequence[Sequence[int]]) -> None:
        """Read the prompts, as the plain decoder does, and choose the first tokens."""
        import torch

        with torch.inference_mode():
            logits_BV, read = self._prompts.read(ids)
            self._cache.keys[:, :, : read.length] = read.keys[:, :, : read.length]
            self._cache.values[:, :, : read.length] = read.values[:, :, : read.length]
            self._logits.copy_(logits_BV)
            self._position.fill_(read.length - 1)
            self._choose()

    def advance(self, num_steps: int, keep_logits: bool = False) -> None:
        """So many more tokens. On a GPU only launches; the caller sees to it that the cache has room."""
        import torch

        with torch.inference_mode(), self._on_device():
            self._marks = [self._mark()]
            for _ in range(num_steps):
                self._step()
                self._marks.append(self._mark())

    def launch(self) -> None:
        """One step's kernels, one after another, on the current stream."""
        from bitbench.decode.kernels.triton.attention import attend
        from bitbench.decode.kernels.triton.embedding import embed
        from bitbench.decode.kernels.triton.norms import add_norm
        from bitbench.decode.kernels.triton.products import Norm, product

        c, w, t, batch = self._forward.config, self._forward.weights, self._tuning, self.batch_size

        def multiply(x: Any, matrix: Operand, y: Any, **more: Any) -> None:
            product(x, matrix, y, t.blocks(matrix, batch), **more)

        def norm_multiply(delta: Any | None, weight: Any, matrix: Operand, y: Any, **more: Any) -> None:
            """One vector is normed by each program of the product, which saves a kernel; more would be too much."""
            if batch == 1:
                multiply(self._x, matrix, y, norm=Norm(delta, weight, c.norm_eps, self._next_x), **more)
                self._x, self._next_x = self._next_x, self._x
            else:
                add_norm(self._x, delta, weight, self._normed, c.norm_eps, num_warps=t.norm_warps)
                multiply(self._normed, matrix, y, **more)

        embed(self._token, self._embedding, self._x, t.norm_warps)
        delta = None
        for number, (layer, m) in enumerate(zip(w.layers, self._layers, strict=True)):
            norm_multiply(delta, layer.input_norm, m.qkv, self._qkv, bias_O=layer.qkv_bias)
            attend(
                self._qkv, None if layer.q_norm is None else (layer.q_norm, layer.k_norm), self._forward.cos_sin,
                self._cache.keys[number], self._cache.values[number], self._position, self._parts, self._attended,
                c.norm_eps, t.attending,
            )  # fmt: skip
            delta = self._delta
            multiply(self._attended, m.o, delta)
            norm_multiply(delta, layer.post_norm, m.gate_up, self._inner, silu=True)
            multiply(self._inner, m.down, delta)
        norm_multiply(delta, w.final_norm, self._head, self._logits)
        self._choose()

    def _choose(self) -> None:
        """The likeliest tokens, for the next position, which becomes the current one."""
        import torch

        torch.argmax(self._logits, dim=-1, out=self._token)
        self._position.add_(1)
        self._output.scatter_(1, self._position.expand(self.batch_size, 1), self._token[:, None])

    def compile(self, tunings: Sequence[Tuning]) -> None:
        """Compile the kernels for all these block sizes at once. No step is taken, but the position is lost."""
        import torch

        from bitbench.decode.kernels.triton.launching import compiled_together

        now = self._tuning
        with torch.inference_mode(), self._on_device(), compiled_together():
            for tuning in tunings:
                self.use(tuning)
                self._position.zero_()  # where there is room for what `launch` does beside kernels
                self.launch()
        self.use(now)

    def capture(self) -> None:
        """Make every step a replay of one CUDA graph, once all kernels are compiled."""
        self.compile([self._tuning])
        self._position.zero_()  # where there is room for one more
        self._step = captured(self.launch, self._device)

    def _on_device(self) -> AbstractContextManager[Any]:
        """Triton launches on the current device, events are recorded there."""
        if self._device == "cpu":
            return nullcontext()
        import torch

        on: AbstractContextManager[Any] = torch.cuda.device(self._device)
        return on

    def _mark(self) -> Any:
        """The end of what was launched: an event, or the host's time where nothing is only launched."""
        if self._device == "cpu":
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def step_times_s(self) -> tuple[float, ...]:
        """Seconds of each step of the last `advance`, between CUDA events around the replays. Waits for it."""
        if self._device == "cpu":
            return tuple(after - before for before, after in pairwise(self._marks))
        if self._marks:
            self._marks[-1].synchronize()
        return tuple(before.elapsed_time(after) * 1e-3 for before, after in pairwise(self._marks))

    def force_all(self, tokens: Sequence[int]) -> None:
        """The next step reads these tokens instead of those chosen."""
        import torch

        with torch.inference_mode():
            self._token.copy_(torch.as_tensor(tokens))


def on_cuda(forward: Forward, device: str, room: int, batch_size: int = 1) -> TritonSteps:
    """For the GPU `device`, compiled and captured. Raises Unsupported."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    capability = (properties.major, properties.minor)
    check(forward.config, forward.weights.final_norm.dtype, capability, batch_size)
    check_tools()
    tuning, multiprocessors = for_gpu(properties.name, capability), properties.multi_processor_count
    steps = TritonSteps(forward, device, room, batch_size, tuning=tuning, multiprocessors=multiprocessors)
    steps.capture()
    return steps
