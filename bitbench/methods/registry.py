"""The table of methods. To add one in a known scheme, add an entry here."""

from dataclasses import dataclass
from typing import Literal

from bitbench.facts import scheme as schemes
from bitbench.facts.scheme import Scheme

Family = Literal["16bit", "bitsandbytes", "int8-rows", "fp8-rows", "awq"]


@dataclass(frozen=True, slots=True)
class Method:
    """How the stored numbers are chosen. `kernels` are the ones that can be asked for with `method:kernel`.

    `family` says whose storage and kernels are used, `needs` are the packages to install; `made` says whether the
    numbers are made at load or stored in a checkpoint, `checkpoint_of` in whose where that is another method's.
    """

    name: str
    family: Family
    title: str
    summary: str
    scheme: Scheme
    needs: tuple[str, ...] = ("torch", "transformers")
    kernels: tuple[str, ...] = ()
    made: Literal["at load", "once, cached", "once, in seconds, without calibration"] = "at load"
    checkpoint_of: str = ""

    @property
    def has_own_checkpoint(self) -> bool:
        """True where the numbers are stored once; the others start from the model's 16-bit checkpoint at each load."""
        return self.made != "at load"

    @property
    def stored_as(self) -> str:
        """The method whose checkpoint is loaded."""
        return self.checkpoint_of or self.name


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """A method with the kernel that was asked for, if any: `awq-int4:marlin`."""

    method: Method
    kernel: str | None = None

    @property
    def label(self) -> str:
        """The name as the user writes it."""
        return f"{self.method.name}:{self.kernel}" if self.kernel else self.method.name


_BNB = ("torch", "transformers", "bitsandbytes", "accelerate")
_AWQ = ("torch", "transformers", "gptqmodel")
METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("fp16", "16bit", "FP16", "the 16-bit weights as they are, in float16", schemes.FP16),
        Method("bf16", "16bit", "BF16", "the 16-bit weights as they are, in bfloat16", schemes.BF16),
        Method(
            "bnb-int8", "bitsandbytes", "LLM.int8()",
            "int8 weights and activations; columns with an activation above 6.0 go through 16 bit",
            schemes.LLM_INT8, _BNB,
        ),
        Method(
            "bnb-int8-t0", "bitsandbytes", "LLM.int8(), threshold 0",
            "int8 weights and activations without the outlier columns, and so without a host sync per layer",
            schemes.LLM_INT8_NO_OUTLIERS, _BNB,
        ),
        Method(
            "bnb-nf4", "bitsandbytes", "NF4", "4-bit normal floats with a scale per 64 weights, multiplied in 16 bit",
            schemes.NF4, _BNB,
        ),
        Method(
            "int8-wo", "int8-rows", "INT8 weight-only",
            "8-bit weights with a scale for each row, lm_head too, multiplied in 16 bit: no calibration", schemes.W8A16,
        ),
        Method(
            "fp8-wo", "fp8-rows", "FP8 weight-only",
            "8-bit floats (E4M3) with a scale for each row, lm_head too, multiplied in 16 bit: no calibration",
            schemes.W8A16_FP8,
        ),
        Method(
            "awq-int4", "awq", "AWQ INT4",
            "4-bit integers scaled by calibrated activations, expanded to 16 bit in registers",
            schemes.w4a16(128), _AWQ, ("marlin", "gemm"), "once, cached",
        ),
        Method(
            "awq-int4-head8", "awq", "AWQ INT4, INT8 lm_head",
            "awq-int4's numbers with lm_head, the largest matrix, in 8 bits with a scale for each row",
            schemes.w4a16(128, 8), _AWQ, ("marlin", "gemm"), "once, cached", "awq-int4",
        ),
        Method(
            "rtn-int4", "awq", "round-to-nearest INT4",
            "4-bit integers rounded to the nearest, in AWQ's storage and kernels: what a calibrated method must beat",
            schemes.w4a16(128), _AWQ, ("marlin", "gemm"), "once, in seconds, without calibration",
        ),
    )
}  # fmt: skip

BASELINE_METHODS = tuple(name for name, m in METHODS.items() if m.scheme.is_16bit)


def default_methods(device: str) -> tuple[str, ...]:
    """The default set: 16 bit, INT8, NF4 and AWQ INT4.

    On a CPU both kinds of 16 bit, either of which may be the fast one, and INT8 weight-only, which has a kernel there.
    """
    if device == "cpu":
        return ("fp16", "bf16", "bnb-int8", "int8-wo", "bnb-nf4", "awq-int4")
    return ("fp16", "bnb-int8", "bnb-nf4", "awq-int4")


# What quality is measured against computes the 16-bit weights in 16 bit on a GPU. On a CPU in float32: float16 is
# emulated there, and bfloat16's own rounding (0.002 nats on the demo) is as much as near-lossless methods cost.
_REFERENCES = {
    "cpu": Method("fp32", "16bit", "FP32", "the 16-bit weights as they are, computed in float32", schemes.FP32),
    "fake": METHODS["fp16"],
}


def reference_method(device: str) -> MethodChoice:
    """How the 16-bit model that others are compared with computes on this device."""
    return MethodChoice(_REFERENCES.get(device, METHODS["fp16"]))


def parse_method(argument: str) -> MethodChoice:
    """Read `method` or `method:kernel`. Raises ValueError naming the valid choices."""
    name, colon, kernel = argument.partition(":")
    if name not in METHODS:
        raise ValueError(f"unknown method '{name}': choose from {', '.join(METHODS)}")
    method = METHODS[name]
    if colon and kernel not in method.kernels:
        valid = ", ".join(f"{name}:{k}" for k in method.kernels) or f"{name} (it has no choice of kernel)"
        raise ValueError(f"unknown kernel '{kernel}' for {name}: choose from {valid}")
    return MethodChoice(method, kernel or None)
