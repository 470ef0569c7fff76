"""What work is for follows from the module and the operators that launched it, never from a kernel's name."""

import pytest

from bitbench.measure.roles import role_of, role_of_compiled


@pytest.mark.parametrize(
    ("module", "operators", "role"),
    [
        ("projections", ("aten::linear", "aten::addmm"), "projections"),
        ("projections", (), "projections"),
        ("lm_head", ("aten::linear", "aten::mm"), "lm_head"),
        ("attention", ("aten::scaled_dot_product_attention", "aten::_cudnn_attention_forward"), "attention"),
        ("attention", ("aten::matmul", "aten::bmm"), "attention"),
        ("attention", ("aten::cat",), "copies"),
        ("attention", ("aten::mul",), "elementwise"),
        ("norm", ("aten::to", "aten::_to_copy", "aten::copy_"), "elementwise"),
        ("embedding", ("aten::embedding", "aten::index_select"), "copies"),
        ("model", ("aten::add",), "elementwise"),
        ("projections", ("MatMul8bitLt", "bitsandbytes::int8_vectorwise_quant"), "quantize"),
        (
            "projections",
            ("MatMul8bitLt", "bitsandbytes::int8_scaled_mm", "bitsandbytes::int8_mm_dequant"),
            "dequantize",
        ),
        (
            "projections",
            ("MatMul8bitLt", "bitsandbytes::int8_scaled_mm", "bitsandbytes::int8_linear_matmul"),
            "projections",
        ),
        ("projections", ("bitsandbytes::dequantize_4bit",), "dequantize"),
        ("projections", ("gptqmodel_awq::gemm_forward",), "projections"),
        ("projections", ("gptqmodel_awq::dequantize_weights",), "dequantize"),
        (None, ("aten::argmax",), "sampling"),
        (None, (), "unattributed"),
    ],
)
def test_role(module, operators, role):
    assert role_of(module, operators) == role


@pytest.mark.parametrize(
    ("kernel", "role"),
    [
        ("triton_red_fused__to_copy_add_mean_mul_rsqrt_3", "elementwise"),
        ("triton_tem_fused_addmm_7", "projections"),
        ("triton_red_fused_argmax_1", "sampling"),
        ("nvjet_sm90_hsh_64x8", None),
        ("triton_poi_noise", None),
    ],
)
def test_a_compilers_kernel_says_what_it_fused(kernel, role):
    assert role_of_compiled(kernel) == role
