"""Round-to-nearest INT8 with one scale a row, the scheme of `int8-wo` and of an INT8 lm_head. Shapes: O out, I in."""

from typing import Any

_TOP = 127


def round_rows(weight_OI: Any, scale_dtype: Any) -> tuple[Any, Any]:
    """int8 numbers [O][I] from -127 to 127 and scales [O]; a number q of a row means q * scale.

    scale = largest magnitude of the row / 127, in `scale_dtype`: it is rounded before it divides, so that no weight
    moves by more than half of the step that is stored, but for the largest, which a scale rounded down may cut by a
    quarter of a step in bfloat16.
    """
    import torch

    w_OI = weight_OI.float()
    # A row of zeros has any scale; the least one is a normal number in bfloat16 and float32.
    scale_O = (w_OI.abs().amax(1) / _TOP).clamp(min=2.0**-126).to(scale_dtype)
    q_OI = (w_OI / scale_O.float()[:, None]).round_().clamp_(-_TOP, _TOP)
    return q_OI.to(torch.int8), scale_O


def dequantize(q_OI: Any, scale_O: Any) -> Any:
    """The weight that the stored numbers mean, float32 [O][I]."""
    return q_OI.float() * scale_O.float()[:, None]
