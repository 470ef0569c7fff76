"""Attention of one new token over grouped keys and values, none of which is copied.

A step over a static cache has a mask, and with a mask transformers before 5.23 repeats keys and values for every head
of their group; eager generation has no mask and repeats nothing. Here the heads of a group are so many queries of one
head instead, as in transformers 5.23: one new token sees the same places in all of them.

Shapes: B batch, H heads, K heads of keys and values, G = H / K heads in a group, L cache length, D of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAME = "bitbench-grouped"
# What only transformers' own function knows how to treat.
_OWN_ONLY = ("position_bias", "softcap")


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

    S queries a head. By transformers' sdpa where S is not 1, where heads are not grouped or see different places, and
    where nothing is masked.
    """
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    B, H, S, D = query_BHSD.shape
    K = key_BKLD.shape[1]
    own_only = any(others.get(name) is not None for name in _OWN_ONLY)
    if S != 1 or H == K or attention_mask is None or attention_mask.shape[1] != 1 or own_only:
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        found: tuple[Any, None] = sdpa(
            module, query_BHSD, key_BKLD, value_BKLD, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return found
    out_BKGD = scaled_dot_product_attention(
        query_BHSD.reshape(B, K, H // K, D),
        key_BKLD,
        value_BKLD,
        attn_mask=attention_mask.expand(-1, -1, H // K, -1),
        dropout_p=dropout,
        scale=scaling,
        is_causal=False,
    )
    return out_BKGD.reshape(B, 1, H, -1), None
