"""One greedy decode step over a static cache, in which the host has nothing to wait for.

Everything that changes from step to step lies in tensors at fixed addresses and is updated in place on the device, so
that the step can be captured in a CUDA graph as it is. It also runs uncaptured, on any device. Such a cache needs a
mask, and what transformers would do because of it is avoided where cuDNN allows (grouped_attention.py). Rotation takes
half of transformers' kernels, to the same numbers (short_rotation.py).

Shapes: B batch, S prompt length, L cache length.
"""

from typing import Any

from bitbench.engines.grouped_attention import grouped_attention
from bitbench.engines.hf_generate import kv_cache_bytes
from bitbench.engines.short_rotation import short_rotation
from bitbench.engines.static_cache import Places, static_cache
from bitbench.facts.errors import Unsupported

# These take a ready mask; flash and flex attention would not.
_ATTENTION = ("sdpa", "eager")


class StaticStepper:
    """A model with its cache, the token just chosen, its position and all tokens so far.

    `start` reads a prompt and chooses its first token; each `step` then chooses one more. The caller sees to it that
    prompt and output together are at most `cache_len` + 1 tokens: the last token chosen is never read.
    """

    def __init__(self, model: Any, batch_size: int, cache_len: int) -> None:
        """Allocates all but keys and values, which the first prompt does. Raises Unsupported."""
        import torch

        if model.config._attn_implementation not in _ATTENTION:
            raise Unsupported(f"{model.config._attn_implementation} attention does not take a ready mask")
        self.batch_size, self.cache_len = batch_size, cache_len
        self._model = model
        with torch.inference_mode():
            self._places = Places()
            self._cache = static_cache(model.config, cache_len, self._places)
            self._token_B1 = torch.zeros(batch_size, 1, dtype=torch.long, device=model.device)
            # That of `_token_B1`: the same for the whole batch, whose prompts are equally long.
            self._position_1 = torch.zeros(1, dtype=torch.long, device=model.device)
            self._tokens_BL1 = torch.zeros(batch_size, cache_len + 1, dtype=torch.long, device=model.device)
            # Of the last step, [B][vocab]: made by the capture, it is what every replay writes into.
            self._logits_BV: Any = None
            self._index_L = torch.arange(cache_len, device=model.device)
            # On the device, because a Python number would be copied there by the host in each step. The type is the
            # activations': scaled_dot_product_attention turns a boolean mask into such a one anew in every layer.
            self._visible = torch.zeros((), dtype=model.dtype, device=model.device)
            self._hidden = torch.full((), float("-inf"), dtype=model.dtype, device=model.device)

    def start(self, ids_BS: Any) -> Any:
        """Forget what was before, read the prompts at once and choose the first token. The host may wait here.

        Returns the logits that it was chosen from, [B][vocab].
        """
        import torch

        with torch.inference_mode():
            self._cache.reset()
            self._places.next = self._index_L[: ids_BS.shape[1]]
            logits = self._model(input_ids=ids_BS, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits
            self._position_1.fill_(ids_BS.shape[1])
            self._choose(logits)
            return logits[:, -1]

    def step(self) -> None:
        """Read the last token and choose the next one, without a word between host and device."""
        import torch

        model = self._model
        with torch.inference_mode(), grouped_attention(model), short_rotation(model):
            self._places.next = self._position_1
            mask_L = torch.where(self._index_L <= self._position_1, self._visible, self._hidden)
            logits = model(
                input_ids=self._token_B1,
                position_ids=self._position_1.expand(self.batch_size, 1),
                # Four dimensions: transformers takes such a mask as it is and makes none of its own.
                attention_mask=mask_L.expand(self.batch_size, 1, 1, self.cache_len),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            self._position_1.add_(1)
            self._choose(logits)
            self._logits_BV = logits[:, -1]

    def _choose(self, logits: Any) -> None:
        """Plain argmax of logits [B][1][vocab]: the token at `_position_1`."""
        self._token_B1.copy_(logits[:, -1].argmax(dim=-1, keepdim=True))
        self._tokens_BL1.index_copy_(1, self._position_1, self._token_B1)

    def force(self, token: int) -> None:
        """Let the next step read this token, whatever was chosen."""
        self._token_B1.fill_(token)

    def step_logits(self) -> Any:
        """The logits of the last step, [B][vocab]; the next step overwrites them where it is captured."""
        assert self._logits_BV is not None, "no step was taken or captured yet"
        return self._logits_BV

    def output(self, prompt_len: int, output_len: int) -> list[list[int]]:
        """The tokens chosen since `start`, [batch][output_len]. Waits for the device."""
        new: list[list[int]] = self._tokens_BL1[:, prompt_len : prompt_len + output_len].tolist()
        return new

    def kv_cache_bytes(self) -> int:
        """Bytes of the keys and values, as allocated."""
        return kv_cache_bytes(self._cache)
