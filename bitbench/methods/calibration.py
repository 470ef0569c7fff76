"""The named calibration text and how much of it is used. Source and licence: `data/calibration-1.md`."""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from bitbench.methods.content_hash import text_hash

NAME = "bitbench-calibration-1"
_FILE = "calibration-1.json"


@dataclass(frozen=True, slots=True)
class Amount:
    """The first `documents` of the text, cut at `tokens` each, one after another in blocks of that length."""

    documents: int
    tokens: int

    @property
    def line(self) -> str:
        """For the origin of a checkpoint."""
        return f"{NAME}, {self.documents} documents of up to {self.tokens} tokens in blocks of {self.tokens}"


# 2,048 tokens quantize the demo in under 3 minutes on two cores, and AWQ beats round-to-nearest with them: mean KL to
# the 16-bit model 0.20 against 0.47 on 512 tokens of licence text, 0.14 against 0.37 on its own continuations
# (2026-11-23, an earlier cut of the same documents). A GPU takes all.
CPU_AMOUNT = Amount(16, 128)
GPU_AMOUNT = Amount(48, 512)


def amount(device: str) -> Amount:
    """How much of the text is used where the quantization runs on `device`."""
    return CPU_AMOUNT if device == "cpu" else GPU_AMOUNT


def digest() -> str:
    """SHA-256 of the text."""
    return text_hash(_text())


def token_ids(tokenizer: Any, used: Amount) -> list[list[int]]:
    """Blocks of equally many of a model's tokens; questions and answers under its chat template where it has one.

    Equally many, because gptqmodel (7.6, `AWQProcessor._layer_input_features`) calibrates on the last document alone
    where documents differ in length. What is left at the end is dropped.
    """
    documents = (_render(row, tokenizer) for row in json.loads(_text())[: used.documents])
    ids = [token for text in documents for token in _cut(tokenizer, text, used.tokens)]
    length = min(used.tokens, len(ids))
    return [ids[first : first + length] for first in range(0, len(ids) - length + 1, length)]


def _cut(tokenizer: Any, text: str, tokens: int) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])[:tokens]


def _text() -> str:
    return (files("bitbench.methods") / "data" / _FILE).read_text(encoding="utf-8")


def _render(row: dict[str, str], tokenizer: Any) -> str:
    if "text" in row:
        return row["text"]
    if tokenizer.chat_template is None:
        return f"{row['question']}\n\n{row['answer']}"
    messages = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False))
