"""What is stored and multiplied: the number formats of a quantized model, apart from how the numbers were chosen."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scheme:
    """The storage of the projections; embeddings, norms, biases and (unless said) lm_head stay in 16 bit.

    `bits_per_group` is what a group of weights needs beside them: scales and zero points. `group_size` 0 means one
    group for each output row.
    """

    name: str
    weight_bits: float
    activation_bits: int = 16
    group_size: int = 0
    bits_per_group: int = 0
    lm_head_bits: int = 16

    @property
    def is_16bit(self) -> bool:
        """True for a baseline: nothing is quantized."""
        return self.weight_bits == 16

    def linear_bytes(self, in_features: int, out_features: int) -> int:
        """Bytes of one projection's weight as stored, scales and zero points included, its bias not."""
        groups = out_features * (-(-in_features // self.group_size) if self.group_size else 1)
        return int(in_features * out_features * self.weight_bits / 8 + groups * self.bits_per_group / 8)


FP16 = Scheme("FP16", 16)
FP32 = Scheme("FP32", 32)
BF16 = Scheme("BF16", 16)
# bitsandbytes keeps one float32 scale (SCB) for each output row.
LLM_INT8 = Scheme("W8A8 + FP16 outlier columns", 8, 8, 0, 32)
LLM_INT8_NO_OUTLIERS = Scheme("W8A8", 8, 8, 0, 32)
# One scale for each output row, 32 bits (16 where the kernel wants the activations' type); lm_head too.
W8A16 = Scheme("W8A16 by row", 8, 16, 0, 32, 8)
# The same with 8-bit floats (E4M3).
W8A16_FP8 = Scheme("W8A16 E4M3 by row", 8, 16, 0, 32, 8)
# One float32 absmax for each 64 weights (transformers' default: no double quantization).
NF4 = Scheme("NF4 (W4A16, blocks of 64)", 4, 16, 64, 32)


def w4a16(group_size: int, lm_head_bits: int = 16) -> Scheme:
    """AWQ's storage: 4-bit weights, for each group a 16-bit scale and a 4-bit zero point."""
    head = "" if lm_head_bits == 16 else f", lm_head INT{lm_head_bits} by row"
    return Scheme(f"W4A16-g{group_size}-asym{head}", 4, 16, group_size, 20, lm_head_bits)
