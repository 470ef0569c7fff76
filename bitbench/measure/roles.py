"""What a piece of work is for, by the module that launched it and the operators it was launched through.

Never by the kernel's name, which says how something is computed and not what for: one cuBLAS kernel serves projections
and lm_head alike, and one element-wise kernel serves everything.
"""

from collections.abc import Sequence

from bitbench.facts.profile import Role

# By the library that owns the operator: what it computes, from its documentation and source. Longest prefix wins.
_OPERATORS: dict[str, Role] = {
    "bitsandbytes::int8_vectorwise_quant": "quantize",
    "bitsandbytes::int8_double_quant": "quantize",
    "bitsandbytes::quantize": "quantize",
    "bitsandbytes::int8_vectorwise_dequant": "dequantize",
    "bitsandbytes::int8_mm_dequant": "dequantize",
    "bitsandbytes::dequantize": "dequantize",
    "bitsandbytes::": "projections",
    "gptqmodel_awq::dequantize": "dequantize",
    "gptqmodel": "projections",
    "aten::_weight_int4pack_mm": "projections",
    "aten::scaled_dot_product": "attention",
    "aten::_scaled_dot_product": "attention",
    "aten::_cudnn_attention": "attention",
    "aten::_flash_attention": "attention",
    "aten::_efficient_attention": "attention",
}
# Moving numbers without computing. A change of type inside a norm is part of the norm, so norms are asked first.
_COPIES = frozenset(
    {
        "aten::copy_",
        "aten::cat",
        "aten::clone",
        "aten::contiguous",
        "aten::index_copy_",
        "aten::index_put_",
        "aten::_to_copy",
        "aten::index_select",
        "aten::embedding",
        "aten::fill_",
        "aten::zero_",
        "aten::repeat_interleave",
    }
)
_PRODUCTS = frozenset(
    {
        "aten::linear",
        "aten::addmm",
        "aten::mm",
        "aten::matmul",
        "aten::bmm",
        "aten::baddbmm",
        "aten::_addmm_activation",
        "mkldnn::_linear_pointwise",
    }
)


def role_of(module: str | None, operators: Sequence[str]) -> Role:
    """The role of work launched inside `module` (None: outside of the model) through `operators`, outermost first."""
    if module is None:
        return "sampling" if operators else "unattributed"
    if module == "lm_head":
        return "lm_head"
    if module == "step":
        return "whole_step"
    for operator in reversed(operators):  # the innermost that says something: a product calls its own dequantization
        owners = [prefix for prefix in _OPERATORS if operator.startswith(prefix)]
        if owners:
            return _OPERATORS[max(owners, key=len)]
    return _by_module(module, operators)


def _by_module(module: str, operators: Sequence[str]) -> Role:
    if module == "embedding":
        return "copies"
    if module == "norm":
        return "elementwise"
    if any(operator in _PRODUCTS for operator in operators):
        return "attention" if module == "attention" else "projections"
    if any(operator in _COPIES for operator in operators):
        return "copies"
    # What a plain product's module launches beside it (a split sum, a bias) is part of the product; what a quantized
    # one's module does in other ways prepares numbers for it.
    return "projections" if module == "projections" and not operators else "elementwise"


def role_of_compiled(kernel: str) -> Role | None:
    """The role of a kernel that a compiler wrote for the operators it fused, which it names; None for other kernels.

    torch's inductor calls its kernels `triton_red_fused_add_mul_...`. This is the compiler's own account of what the
    kernel is made of, and no guess: such a kernel has no launching module.
    """
    if not kernel.startswith("triton_") or "_fused_" not in kernel:
        return None
    operators = kernel.split("_fused_", 1)[1]
    if any(name in operators for name in ("addmm", "_mm_", "bmm")):
        return "projections"
    if "argmax" in operators:
        return "sampling"
    return "elementwise"
