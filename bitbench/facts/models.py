"""What a model argument can be, and the built-in table of architectures that run with random weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitbench.facts.frozen import Frozen

ModelKind = Literal["demo", "shape", "folder", "hub"]


class ModelRef(Frozen):
    """A model as the user named it. `name` is a shape's name, a folder's path or a hub id."""

    kind: ModelKind
    name: str

    @property
    def label(self) -> str:
        """The name used in records and tables."""
        return f"shape:{self.name}" if self.kind == "shape" else self.name


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Llama-family decoder, from the `config.json` of `source`."""

    title: str
    source: str
    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_theta: float = 10_000.0
    rope_scaling: tuple[tuple[str, float | int | str], ...] = ()
    max_positions: int = 32_768
    norm_eps: float = 1e-6

    @property
    def linear_shapes(self) -> tuple[tuple[str, int, int], ...]:
        """(name, in_features, out_features) of one layer's quantizable projections."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return (
            ("q_proj", self.hidden_size, q),
            ("k_proj", self.hidden_size, kv),
            ("v_proj", self.hidden_size, kv),
            ("o_proj", q, self.hidden_size),
            ("gate_proj", self.hidden_size, self.intermediate_size),
            ("up_proj", self.hidden_size, self.intermediate_size),
            ("down_proj", self.intermediate_size, self.hidden_size),
        )


def _llama3_rope(factor: float) -> tuple[tuple[str, float | int | str], ...]:
    return (
        ("rope_type", "llama3"),
        ("factor", factor),
        ("low_freq_factor", 1.0),
        ("high_freq_factor", 4.0),
        ("original_max_position_embeddings", 8192),
    )


SHAPES: dict[str, ModelShape] = {
    "qwen2.5-0.5b": ModelShape(
        "Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct", "qwen2", 896, 24, 14, 2, 64, 4864, 151_936, True,
        qkv_bias=True, rope_theta=1e6,
    ),
    "qwen2.5-1.5b": ModelShape(
        "Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B-Instruct", "qwen2", 1536, 28, 12, 2, 128, 8960, 151_936, True,
        qkv_bias=True, rope_theta=1e6,
    ),
    "qwen2.5-7b": ModelShape(
        "Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct", "qwen2", 3584, 28, 28, 4, 128, 18_944, 152_064, False,
        qkv_bias=True, rope_theta=1e6,
    ),
    "llama-3.2-1b": ModelShape(
        "Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct", "llama", 2048, 16, 32, 8, 64, 8192, 128_256, True,
        rope_theta=5e5, rope_scaling=_llama3_rope(32.0), max_positions=131_072, norm_eps=1e-5,
    ),
    "llama-3.1-8b": ModelShape(
        "Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", "llama", 4096, 32, 32, 8, 128, 14_336, 128_256, False,
        rope_theta=5e5, rope_scaling=_llama3_rope(8.0), max_positions=131_072, norm_eps=1e-5,
    ),
    "smollm2-135m": ModelShape(
        "SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct", "llama", 576, 30, 9, 3, 64, 1536, 49_152, True,
        rope_theta=1e5, max_positions=8192, norm_eps=1e-5,
    ),
    "qwen3-0.6b": ModelShape(
        "Qwen3-0.6B", "Qwen/Qwen3-0.6B", "qwen3", 1024, 28, 16, 8, 128, 3072, 151_936, True,
        qk_norm=True, rope_theta=1e6, max_positions=40_960,
    ),
}  # fmt: skip

DEMO_TITLE = "SmolLM2-135M-Instruct (demo)"
DEMO_NOTE = "the weights of the demo had been 4-bit before they were turned into 16 bit"
DEFAULT_HUB_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
DEFAULT_OFFLINE_SHAPE = "qwen2.5-0.5b"


def parse_model(argument: str) -> ModelRef:
    """Read a model argument: `demo`, `shape:NAME`, an existing folder, or a hub id `owner/name`.

    Raises ValueError naming the valid choices.
    """
    if argument == "demo":
        return ModelRef(kind="demo", name="demo")
    if argument.startswith("shape:"):
        name = argument.removeprefix("shape:").lower()
        if name not in SHAPES:
            raise ValueError(f"unknown shape '{name}': choose from {', '.join(SHAPES)}")
        return ModelRef(kind="shape", name=name)
    if Path(argument).is_dir():
        return ModelRef(kind="folder", name=argument.rstrip("/"))
    owner, slash, name = argument.partition("/")
    looks_like_path = argument.startswith((".", "/", "~")) or argument.count("/") > 1
    if slash and owner and name and not looks_like_path:
        return ModelRef(kind="hub", name=argument)
    if looks_like_path:
        raise ValueError(f"no model folder at '{argument}'")
    shapes = ", ".join(f"shape:{s}" for s in SHAPES)
    raise ValueError(f"unknown model '{argument}': give demo, {shapes}, a local folder, or a hub id such as owner/name")
