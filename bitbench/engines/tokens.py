"""What every engine does alike with tokens: from text by a Hugging Face tokenizer, and judged by logits."""

from collections.abc import Sequence
from typing import Any

from bitbench.engines.base import TextTokens


def encode(tokenizer: Any, text: str) -> list[int] | None:
    """Token ids of a user's message under the chat template; None without a tokenizer."""
    if tokenizer is None:
        return None
    if tokenizer.chat_template is None:
        return list(tokenizer(text)["input_ids"])
    messages = [{"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def text_tokens(tokenizer: Any, text: str) -> TextTokens | None:
    """A plain text's tokens; a BOS where the tokenizer adds one by itself (Llama's does, Qwen's does not)."""
    if tokenizer is None:
        return None
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    first = next(iter(tokenizer("a")["input_ids"]))
    bos_id = first if first == tokenizer.bos_token_id else None
    return TextTokens(ids, bos_id, f"{type(tokenizer).__name__} of {len(tokenizer)} tokens")


def gaps_below_top(logits_NV: Any, ids: Sequence[int]) -> list[float]:
    """How far the logit of each of the last N ids lies below its position's top one, in standard deviations."""
    import torch

    logits_NV = logits_NV.float()
    last_N = torch.tensor(list(ids)[-len(logits_NV) :], device=logits_NV.device)
    chosen_N = logits_NV.gather(1, last_N[:, None])[:, 0]
    gaps: list[float] = ((logits_NV.max(dim=1).values - chosen_N) / logits_NV.std(dim=1)).tolist()
    return gaps
