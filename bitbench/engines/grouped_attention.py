"""Attention of one new token over grouped keys and values by cuDNN, which copies none of them.

A step over a static cache has a mask, which eager generation has not, and with a mask transformers does not hand over
grouped heads as they are: before 5.23 it repeats keys and values for every head of a group, since then it takes those
heads for so many queries of one. cuDNN takes grouped heads and a mask together, which on an H200 takes two thirds of
the time or much less (docs/log.md). Where it may not be used, attention is transformers' own.

Shapes: B batch, H heads, K heads of keys and values, S queries a head, L cache length, D of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAME = "bitbench-grouped"
# What only transformers' own function knows how to treat.
_OWN_ONLY = ("position_bias", "softcap")
# Hopper, where it was measured. On Blackwell cuDNN 9.19 to 9.25.0 are wrong for one query of few grouped heads, and
# torch 2.11 and 2.13 say that they can be used all the same (pytorch/pytorch#193893).
_CAPABILITY = (9, 0)
# 9.15.1: earlier ones have trouble with lengths that are no multiple of 128 (pytorch/pytorch#169849).
_FIRST_CUDNN = 91501


@contextmanager
def grouped_attention(model: Any) -> Iterator[None]:
    """While this is open, attention layers of a model with sdpa attention use it; any other model stays as it is.

    They look the function up by the name in their config at each forward, so it is the name that changes, for everyone
    who runs the model meanwhile.
    """
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        yield
        return
    _register()
    config._attn_implementation = {"": _NAME}  # as a dict it leaves configs within this one alone
    try:
        yield
    finally:
        config._attn_implementation = {"": "sdpa"}


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    AttentionInterface.register(_NAME, _attend)
    # Without one under this name, a model that is given no ready mask would be run without any.
    AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def _attend(
    module: Any,
    query_BHSD: Any,
    key_BKLD: Any,
    value_BKLD: Any,
    attention_mask: Any,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Any, None]:
    """The output, [B][S][H][D], and no weights: transformers' signature.

    By transformers' sdpa where S is not 1, where heads are not grouped, where nothing is masked, and without cuDNN.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    _, H, S, _ = query_BHSD.shape
    in_question = S == 1 and key_BKLD.shape[1] < H and attention_mask is not None
    own_only = any(others.get(name) is not None for name in _OWN_ONLY)
    if not in_question or own_only or not _cudnn_may(query_BHSD, key_BKLD, value_BKLD, attention_mask, dropout):
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        found: tuple[Any, None] = sdpa(
            module, query_BHSD, key_BKLD, value_BKLD, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return found
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        out_BHSD = scaled_dot_product_attention(
            query_BHSD,
            key_BKLD,
            value_BKLD,
            attn_mask=attention_mask,
            dropout_p=dropout,
            scale=scaling,
            is_causal=False,
            enable_gqa=True,
        )
    return out_BHSD.transpose(1, 2).contiguous(), None


def _cudnn_may(query_BHSD: Any, key_BKLD: Any, value_BKLD: Any, attention_mask: Any, dropout: float) -> bool:
    """Whether cuDNN can attend so and is known to do it well. Asks only the host: of shapes, types and versions.

    Asked whenever Python comes by, so never in a replay of a captured step.
    """
    import torch
    from torch.backends.cuda import SDPAParams, can_use_cudnn_attention

    is_causal, enable_gqa = False, True
    params = SDPAParams(query_BHSD, key_BKLD, value_BKLD, attention_mask, dropout, is_causal, enable_gqa)
    return (
        can_use_cudnn_attention(params)
        and torch.cuda.get_device_capability(query_BHSD.device) == _CAPABILITY
        and (torch.backends.cudnn.version() or 0) >= _FIRST_CUDNN
    )
