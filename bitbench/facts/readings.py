"""What the reference and a cell both read, in tokens: made once with the reference, and stored beside its logits."""

import hashlib
from collections.abc import Sequence
from itertools import cycle, islice

from bitbench.facts.frozen import Frozen
from bitbench.facts.quality import PathName


class ReadText(Frozen):
    """Token ids of one text: `prompt` (BOS included, where there is one) is given, `scored` are predicted one by one.

    `document` is the number of the document that it is part of.
    """

    prompt: tuple[int, ...]
    scored: tuple[int, ...]
    document: int

    @property
    def ids(self) -> tuple[int, ...]:
        """All of it."""
        return (*self.prompt, *self.scored)


def filled(ids: Sequence[int], length: int) -> list[int]:
    """A text filled up to so many tokens at its end with what it begins with: no position sees a later one."""
    return [*ids, *islice(cycle(ids), length - len(ids))]


class Reading(Frozen):
    """The texts of one corpus on one path; fields as in `QualityPass`, which it becomes."""

    path: PathName
    corpus: str
    corpus_hash: str
    tokenizer: str
    window: int
    stride: int
    bos: bool
    texts: tuple[ReadText, ...]

    @property
    def num_positions(self) -> int:
        """Positions compared. On the decode path a text's first token is decided by prefill and is not."""
        return self.num_rows - (len(self.texts) if self.path == "decode" else 0)

    @property
    def longest(self) -> int:
        """Tokens of its longest text."""
        return max(len(text.ids) for text in self.texts)

    @property
    def num_rows(self) -> int:
        """Rows of logits that the reference gives."""
        return sum(len(text.scored) for text in self.texts)


class Readings(Frozen):
    """All that is read, with the reference it was made by. The first reading is of the reference's own answers."""

    reference_dtype: str
    vocab_size: int
    readings: tuple[Reading, ...]

    @property
    def num_positions(self) -> int:
        """Of all readings."""
        return sum(reading.num_positions for reading in self.readings)


def digest(texts: Sequence[ReadText]) -> str:
    """SHA-256 of the token ids of texts."""
    return hashlib.sha256(repr([(list(t.prompt), list(t.scored)) for t in texts]).encode()).hexdigest()
