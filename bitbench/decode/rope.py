"""Rotary position embedding: frequencies, and their rotation of queries and keys.

Formulas: RoFormer (arXiv 2104.09864), and for scaled contexts transformers' `modeling_rope_utils.py`. The two halves of
a head are rotated against each other, as in all checkpoints that transformers reads.
Shapes: L positions, D head size, N heads.
"""

import math
from typing import Any

from bitbench.decode.config import DecoderConfig, RopeConfig


def frequencies(rope: RopeConfig, head_dim: int) -> list[float]:
    """Radians per position of each of the head_dim / 2 pairs."""
    plain = [rope.theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    if rope.kind == "linear":
        return [f / rope.factor for f in plain]
    if rope.kind == "llama3":
        return [_llama3(f, rope) for f in plain]
    return plain


def _llama3(frequency: float, rope: RopeConfig) -> float:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended."""
    wavelength = 2 * math.pi / frequency
    if wavelength < rope.original_len / rope.high_freq_factor:
        return frequency
    if wavelength > rope.original_len / rope.low_freq_factor:
        return frequency / rope.factor
    smooth = (rope.original_len / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return (1 - smooth) * frequency / rope.factor + smooth * frequency


def table(config: DecoderConfig, length: int, device: str) -> Any:
    """cos and sin of every position: float32 [2, L, D / 2]."""
    import torch

    per_position = torch.tensor(frequencies(config.rope, config.head_dim), dtype=torch.float32)
    angles_LD = torch.arange(length, dtype=torch.float32)[:, None] * per_position
    return torch.stack((angles_LD.cos(), angles_LD.sin())).to(device)


def rotate(x_BLND: Any, cos_LD: Any, sin_LD: Any) -> Any:
    """Rotate the heads of each position, in float32; the result has x's type. cos and sin are [L, D / 2]."""
    import torch

    first, second = x_BLND.float().chunk(2, dim=-1)
    cos_L1D, sin_L1D = cos_LD[:, None], sin_LD[:, None]
    rotated = torch.cat((first * cos_L1D - second * sin_L1D, second * cos_L1D + first * sin_L1D), dim=-1)
    return rotated.to(x_BLND.dtype)
