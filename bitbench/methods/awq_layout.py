"""AutoAWQ's "gemm" layout of 4-bit weights, and round-to-nearest into it.

Of a weight [out, in] it stores qweight int32 [in, out/8], qzeros int32 [in/group, out/8] and scales float16
[in/group, out]. Each int32 holds eight neighbouring outputs in the order 0 2 4 6 1 3 5 7 from its lowest bits
(AutoAWQ `awq/modules/linear/gemm.py`, `order_map`; gptqmodel `quantization/awq/utils/packing_utils.py`).
Shapes: O out, I in, G groups, K weights of a group, P = O / 8, R rows.
"""

import re
from typing import Any

from bitbench.methods.safetensors_file import TensorSpec

BITS = 4
PER_WORD = 8
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_TOP = 15
_PROJECTION = re.compile(r"model\.layers\.\d+\.\w+\.\w+_proj\.weight")


def is_projection(name: str) -> bool:
    """Whether the tensor of that name is stored in 4 bits: a linear layer's weight in one of the decoder's blocks."""
    return _PROJECTION.fullmatch(name) is not None


def quantization_config(group_size: int) -> dict[str, Any]:
    """What config.json says of these numbers, in AutoAWQ's names, by which transformers loads them."""
    stored = {"quant_method": "awq", "bits": BITS, "group_size": group_size}
    return {**stored, "zero_point": True, "version": "gemm"}


def stored_specs(spec: TensorSpec, group_size: int) -> tuple[TensorSpec, ...]:
    """The tensors that hold one of the 16-bit checkpoint: qweight, qzeros and scales of a projection, else itself."""
    if not is_projection(spec.name):
        return (spec,)
    out_features, in_features = spec.shape
    stem, groups, words = spec.name.removesuffix("weight"), in_features // group_size, out_features // PER_WORD
    return (
        TensorSpec(f"{stem}qweight", "I32", (in_features, words)),
        TensorSpec(f"{stem}qzeros", "I32", (groups, words)),
        TensorSpec(f"{stem}scales", "F16", (groups, out_features)),
    )


def pack(values_RO: Any) -> Any:
    """Integers 0 to 15, [rows, out], to int32 words [rows, out/8]."""
    import torch

    size = (values_RO.shape[0], values_RO.shape[1] // PER_WORD)
    words_RP = torch.zeros(size, dtype=torch.int32, device=values_RO.device)
    for place, output in enumerate(_ORDER):
        words_RP |= values_RO[:, output::PER_WORD].to(torch.int32) << (BITS * place)
    return words_RP


def unpack(words_RP: Any) -> Any:
    """int32 words [rows, out/8] to integers 0 to 15, uint8 [rows, out]."""
    import torch

    values_RO = torch.empty(words_RP.shape[0], words_RP.shape[1] * PER_WORD, dtype=torch.uint8, device=words_RP.device)
    for place, output in enumerate(_ORDER):
        values_RO[:, output::PER_WORD] = ((words_RP >> (BITS * place)) & _TOP).to(torch.uint8)
    return values_RO


def round_to_nearest(weight_OI: Any, group_size: int) -> tuple[Any, Any, Any]:
    """qweight, qzeros and scales of a weight, each group on its own asymmetric grid from minimum to maximum.

    For each group of `group_size` inputs of an output, in float32: scale = (max - min) / 15,
    zero = round(-min / scale), q = clamp(round(w / scale) + zero, 0, 15); q means (q - zero) * scale.
    This is AutoAWQ's formula (`awq/quantize/quantizer.py`, pseudo_quantize_tensor) with two differences. The scale is
    rounded to the float16 that is stored before it divides. Maximum and minimum are taken over the group's weights and
    0, as GPTQ's reference does (`quant.py`, find_params), since a zero point of 0 to 15 can't reach a group whose
    weights all have one sign. A weight moves by at most (1/2 + 15 * 2^-11) scale; the second term is the rounding of
    a scale that is normal in float16.

    Raises ValueError where `group_size` does not divide the inputs or 8 the outputs, and where a weight is not finite
    or too large for a float16 scale.
    """
    import torch

    out_features, in_features = weight_OI.shape
    if in_features % group_size or out_features % PER_WORD:
        raise ValueError(
            f"{out_features} x {in_features} cannot be stored in groups of {group_size} and words of {PER_WORD}"
        )
    w_OGK = weight_OI.float().reshape(out_features, -1, group_size)
    top_OG, bottom_OG = w_OGK.amax(-1).clamp(min=0), w_OGK.amin(-1).clamp(max=0)
    # Rounded to float16 first, so that the integers fit the scales that are stored. CUDA would multiply with a number's
    # reciprocal; by a tensor it divides, and gives what a CPU gives.
    steps = torch.full((), float(_TOP), device=w_OGK.device)
    scale_OG = ((top_OG - bottom_OG) / steps).clamp(min=2.0**-24).half()
    if not scale_OG.isfinite().all():
        raise ValueError("a weight is not finite, or too large for a scale in float16")
    step_OG = scale_OG.float()
    zero_OG = (-bottom_OG / step_OG).round_().clamp_(0, _TOP)
    q_OGK = (w_OGK / step_OG.unsqueeze(-1)).round_().add_(zero_OG.unsqueeze(-1)).clamp_(0, _TOP)
    return pack(q_OGK.reshape(out_features, in_features).T), pack(zero_OG.T), scale_OG.T.contiguous()


def dequantize(qweight_IP: Any, qzeros_GP: Any, scales_GO: Any) -> Any:
    """The weight [out, in] that the stored numbers mean, float32."""
    group_size = qweight_IP.shape[0] // scales_GO.shape[0]
    zeros_IO = unpack(qzeros_GP).float().repeat_interleave(group_size, dim=0)
    scales_IO = scales_GO.float().repeat_interleave(group_size, dim=0)
    return ((unpack(qweight_IP).float() - zeros_IO) * scales_IO).T
