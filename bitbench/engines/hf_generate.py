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


class _Forced:
    """A logits processor that keeps the logits of each step, float32 [1][vocab], and lets only the given token win."""

    def __init__(self, forced_ids: Sequence[int]) -> None:
        self._forced_ids = forced_ids
        self.rows: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        given = scores.new_full(scores.shape, float("-inf"))
        given[:, self._forced_ids[len(self.rows)]] = 0.0
        self.rows.append(scores[0])  # transformers hands out a copy each step
        return given


def forced_logits(model: Any, prompt_ids: Sequence[int], forced_ids: Sequence[int], cache: Any = None) -> Any:
    """The logits, float32 [len(forced_ids)][vocab], with which `generate` would choose each token, given what it read.

    It is `generate` itself that runs. `cache` as there.
    """
    import torch

    forced = _Forced(forced_ids)
    new, _ = generate(model, [prompt_ids], len(forced_ids), None, cache, processors=[forced])
    assert new[0] == list(forced_ids), "transformers did not take the given tokens"
    return torch.stack(forced.rows)


def generate(
    model: Any,
    ids: Sequence[Sequence[int]],
    output_len: int,
    on_token: OnToken | None,
    cache: Any = None,
    *,
    processors: Sequence[Any] = (),
) -> tuple[list[list[int]], int]:
    """Greedy continuation, [batch][output_len], and the bytes of the cache it left: `cache` where one is given, which
    must be empty, else a new one of transformers' default kind.

    EOS is not configured, so nothing ends early. `processors` change the logits of each step; none for measuring.
    """
    import torch

    input_ids = torch.tensor([list(row) for row in ids], device=model.device)
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=output_len,
        past_key_values=cache,
        logits_processor=list(processors),
        streamer=_TokenTicks(on_token) if on_token else None,
    )
    new: list[list[int]] = output.sequences[:, input_ids.shape[1] :].tolist()
    return new, kv_cache_bytes(output.past_key_values)


def kv_cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values of a transformers cache, as allocated."""
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in cache.layers if layer.keys is not None)
