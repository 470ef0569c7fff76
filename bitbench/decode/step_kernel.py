"""Launches kernels/step.cu: a greedy decode step at batch 1 as one persistent kernel."""

import ctypes
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitbench.decode.config import DecoderConfig
from bitbench.decode.forward import Forward, KVCache, new_cache
from bitbench.decode.matrix import Dense, Int4Groups, Int8Rows, Matrix
from bitbench.decode.stream import GRANULE, streams
from bitbench.decode.weights import Weights
from bitbench.facts.errors import Unsupported

SOURCE = Path(__file__).parent / "kernels" / "step.cu"
# Those of the kernel.
_NUM_GRANULES, _MAX_SPLITS, _WARPS = 24, 8, 8
_CAPABILITY = (9, 0)

_POINTERS_BEFORE = ("embedding", "norms", "qkv_bias", "qk_norms", "cos_sin")
_POINTERS_AFTER = (
    *("keys", "values", "residual", "query", "partial", "inner"),
    *("logits", "best", "token", "position", "output", "barrier"),
)


class _Step(ctypes.Structure):
    """`struct Step` of the kernel."""

    _fields_ = (
        ("streams", ctypes.c_void_p),
        ("stream_stride", ctypes.c_uint64),
        ("granules", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in _POINTERS_BEFORE),
        ("context", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in _POINTERS_AFTER),
    )


def macros(config: DecoderConfig, weights: Weights, num_warps: int = _WARPS) -> dict[str, str]:
    """Sizes that the kernel is compiled for."""
    layer = weights.layers[0]
    values: dict[str, Any] = {
        "HIDDEN": config.hidden_size,
        "INTER": config.intermediate_size,
        "LAYERS": config.num_layers,
        "HEADS": config.num_heads,
        "KV_HEADS": config.num_kv_heads,
        "HEAD_DIM": config.head_dim,
        "VOCAB": config.vocab_size,
        "EPS": config.norm_eps,
        "QKV_BIAS": int(config.qkv_bias),
        "QK_NORM": int(config.qk_norm),
        "GROUP": config.group_size,
        "BITS": _bits(layer.qkv),
        "HEAD_BITS": _bits(weights.head),
        "WARPS": num_warps,
    }
    return {name: str(value) for name, value in values.items()}


def _bits(matrix: Matrix) -> int:
    if isinstance(matrix, Dense):
        return 16
    if isinstance(matrix, Int8Rows):
        return 8
    assert isinstance(matrix, Int4Groups)
    return 4


def check(config: DecoderConfig, capability: tuple[int, int]) -> None:
    """Raises Unsupported, naming what the kernel can do."""
    if capability < _CAPABILITY:
        has = ".".join(map(str, capability))
        raise Unsupported(f"the step kernel needs compute capability 9.0 and this GPU has {has}")
    if config.qk_norm:
        raise Unsupported("the step kernel has no norms on the heads of q and k yet: llama and qwen2 are supported")
    if config.head_dim not in (64, 128):
        raise Unsupported(f"the step kernel supports head sizes 64 and 128, not {config.head_dim}")
    sizes = (config.hidden_size, config.intermediate_size, config.q_size)
    if any(size % 8 for size in sizes) or config.num_heads % config.num_kv_heads:
        raise Unsupported(f"the step kernel needs sizes that are multiples of 8, not {sizes}")
    if config.group_size % 8:
        raise Unsupported(f"the step kernel needs groups of a multiple of 8, not {config.group_size}")


def include_dirs() -> list[str]:
    """Where pip's packages of NVIDIA, which torch brings, keep CUDA's headers; torch itself knows a CUDA toolkit's."""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations or [] if spec else []
    return sorted({str(path.parent) for root in roots for path in Path(root).glob("*/include/cuda_fp16.h")})


@dataclass(slots=True)
class StepKernel:
    """One sequence on one GPU, float16: `start` reads a prompt, each `step` chooses one more token on the device."""

    config: DecoderConfig
    forward: Forward
    device: str
    room: int
    num_warps: int = _WARPS
    cache: KVCache = field(init=False)
    _buffers: dict[str, Any] = field(init=False)
    _launch: Any = field(init=False)
    _grid: int = field(init=False)

    def __post_init__(self) -> None:
        import torch

        properties = torch.cuda.get_device_properties(self.device)
        check(self.config, (properties.major, properties.minor))
        self._grid = properties.multi_processor_count
        self.cache = new_cache(self.config, 1, self.room, torch.float16, self.device)
        self._buffers = self._allocate()
        sizes = macros(self.config, self.forward.weights, self.num_warps)
        options = [f"-D{name}={value}" for name, value in sizes.items()]
        self._launch = torch.cuda._compile_kernel(
            SOURCE.read_text(encoding="utf-8"),
            "decode_step",
            cuda_include_dirs=include_dirs(),
            nvcc_options=["--std=c++17", *options],
        )
        self._launch.set_shared_memory_config(GRANULE * _NUM_GRANULES)

    def start(self, ids: Sequence[int]) -> None:
        """Read the prompt, as the plain decoder does, and choose the first token."""
        import torch

        with torch.inference_mode():
            self.cache.length = 0
            logits = self.forward.logits(torch.tensor([list(ids)], device=self.device), self.cache)
            self._buffers["logits"].copy_(logits[0, -1])
            self._buffers["token"].copy_(logits[0, -1].argmax())
            self._buffers["output"][len(ids)] = self._buffers["token"][0]
            self._buffers["position"].fill_(len(ids))

    def step(self) -> None:
        """One more token. Only launches; the caller sees to it that the cache has room."""
        b = self._buffers
        self._launch(
            grid=(self._grid, 1, 1),
            block=(32 * (self.num_warps + 1), 1, 1),
            args=[b["arguments"]],
            shared_mem=GRANULE * _NUM_GRANULES,
        )

    def force(self, token: int) -> None:
        """The next step reads this token instead of the one chosen."""
        self._buffers["token"].fill_(token)

    def tokens(self, first: int, count: int) -> list[int]:
        """The tokens at these positions. Waits for the device."""
        found: list[int] = self._buffers["output"][first : first + count].tolist()
        return found

    def kv_cache_bytes(self) -> int:
        """Keys and values, as allocated."""
        return int(self.cache.keys.nbytes + self.cache.values.nbytes)

    def logits(self) -> Any:
        """float32 logits [vocab] of the last step."""
        return self._buffers["logits"]

    def _allocate(self) -> dict[str, Any]:
        import torch

        c, w = self.config, self.forward.weights

        def zeros(*shape: int, dtype: Any = torch.float32) -> Any:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        norms = [v for layer in w.layers for v in (layer.input_norm, layer.post_norm)]
        biases = [layer.qkv_bias for layer in w.layers if layer.qkv_bias is not None]
        packed, granules = streams(w, c, self._grid)
        buffers = {
            "streams": packed,
            "granules": granules,
            "embedding": w.embedding.weight_OI if isinstance(w.embedding, Dense) else w.embedding.dequantized().half(),
            "norms": torch.stack([*norms, w.final_norm]).half(),
            "qkv_bias": torch.stack(biases).half() if biases else None,
            "qk_norms": None,
            "cos_sin": self.forward.cos_sin[:, : self.room].contiguous(),
            "keys": self.cache.keys,
            "values": self.cache.values,
            "residual": zeros(c.hidden_size),
            "query": zeros(c.q_size),
            "partial": zeros(c.num_heads, _MAX_SPLITS, c.head_dim + 2),
            "inner": zeros(c.intermediate_size),
            "logits": zeros(c.vocab_size),
            "best": zeros(self._grid, dtype=torch.int64),
            "token": zeros(1, dtype=torch.int32),
            "position": zeros(1, dtype=torch.int32),
            "output": zeros(self.room + 1, dtype=torch.int32),
            "barrier": zeros(2, dtype=torch.int32),
        }
        places = {name: t.data_ptr() for name, t in buffers.items() if t is not None}
        step = _Step(stream_stride=buffers["streams"].shape[1], context=self.room, **places)
        buffers["arguments"] = torch.frombuffer(bytearray(bytes(step)), dtype=torch.uint8).to(self.device)
        return buffers
