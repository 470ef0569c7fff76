"""Rotary position embedding of one new token in half as many kernels, to the bit what transformers makes.

transformers turns queries and keys one after the other, and of each negates a half, puts the halves in their places,
multiplies twice and adds: ten kernels a layer. Here they are turned together, and it is the sine's half that is
negated, once a step: five. A step of a small model is little else than such kernels, and they are no method's.

Shapes: B batch, S new tokens, D of a head; heads of queries and of keys differ.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_NAME = "apply_rotary_pos_emb"


@contextmanager
def short_rotation(model: Any) -> Iterator[None]:
    """While this is open, attention of the model's architecture rotates so; where it rotates otherwise, as before.

    Attention finds the function by its name in the architecture's module at each forward, so it is replaced for
    everyone who runs such a model meanwhile.
    """
    module = sys.modules[type(model).__module__]
    theirs = getattr(module, _NAME, None)
    if theirs is None or not _turns_halves(theirs):
        yield
        return
    setattr(module, _NAME, _Rotation(theirs))
    try:
        yield
    finally:
        setattr(module, _NAME, theirs)


class _Rotation:
    """For all layers of one forward, whose sines are one tensor."""

    def __init__(self, theirs: Callable[..., tuple[Any, Any]]) -> None:
        self._theirs = theirs
        self._sin_BSD: Any = None
        self._turned_BSD: Any = None

    def __call__(self, q: Any, k: Any, cos: Any, sin: Any, *others: Any, **named: Any) -> tuple[Any, Any]:
        """Queries [B][heads][S][D] and keys [B][other heads][S][D], cosines and sines [B][S][D]: both turned.

        By transformers' own function for other arguments, several tokens, and where it turns a part of a head only.
        """
        import torch

        if others or named or q.shape[2] != 1 or cos.shape[-1] != q.shape[-1]:
            return self._theirs(q, k, cos, sin, *others, **named)
        half, num_heads = q.shape[-1] // 2, q.shape[1]
        if sin is not self._sin_BSD:
            self._sin_BSD, self._turned_BSD = sin, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        both = torch.cat((q, k), dim=1)
        both = both * cos.unsqueeze(1) + both.roll(half, -1) * self._turned_BSD.unsqueeze(1)
        return both[:, :num_heads], both[:, num_heads:]


@cache
def _turns_halves(theirs: Callable[..., tuple[Any, Any]]) -> bool:
    """Whether it makes the same numbers, tried on some."""
    import torch

    numbers = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 1, 8, generator=numbers) for heads in (3, 2))
    cos, sin = (torch.randn(2, 1, 8, generator=numbers) for _ in range(2))
    try:
        expected = theirs(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError):  # other arguments or shapes
        return False
    return all(torch.equal(*pair) for pair in zip(_Rotation(theirs)(q, k, cos, sin), expected, strict=True))
