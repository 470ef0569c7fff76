"""transformers' own `generate`, with a tick for each token. Shared by the engines that let transformers drive."""

from collections.abc import Sequence
from typing import Any

from bitbench.engines.base import OnToken


class _TokenTicks:
    """A streamer that only tells that a token is there; transformers hands it the prompt first."""

    def __init__(self, on_token: OnToken) -> None:
        self._on_token = on_token
        self._prompt_seen = False

    def put(self, _: Any) -> None:
        if self._prompt_seen:
            self._on_token()
        self._prompt_seen = True

    def end(self) -> None:
        pass


def generate(
    model: Any, ids: Sequence[Sequence[int]], output_len: int, on_token: OnToken | None, cache: Any = None
) -> tuple[list[list[int]], int]:
    """Greedy continuation, [batch][output_len], and the bytes of the cache it left: `cache` where one is given, which
    must be empty, else a new one of transformers' default kind.

    EOS is not configured, so nothing ends early.
    """
    import torch

    input_ids = torch.tensor([list(row) for row in ids], device=model.device)
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=output_len,
        past_key_values=cache,
        streamer=_TokenTicks(on_token) if on_token else None,
    )
    new: list[list[int]] = output.sequences[:, input_ids.shape[1] :].tolist()
    return new, kv_cache_bytes(output.past_key_values)


def kv_cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values of a transformers cache, as allocated."""
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in cache.layers if layer.keys is not None)
