"""What a look at a cell's quality leaves: raw figures position by position, nothing in them is a mean.

Size in a record (JSON): some 33 bytes a position (tests/facts/test_quality.py), so 0.15 MB for 4,500 positions and
1.7 MB for 51,000.
"""

from collections.abc import Iterable
from itertools import pairwise
from math import isfinite
from typing import Literal, Self

from pydantic import model_validator

from bitbench.facts.frozen import Frozen

LEAST_CONTEXT_NATS = 0.5
"""A model whose context is worth less than this (`context_free_kl_nats`) has no quality that it could lose: random
weights gain some hundredths of a nat from their context, trained ones 3 to 4.
"""

PathName = Literal["decode", "prefill"]
"""decode: token by token through the engine and kernels that are timed. prefill: a whole window in one forward pass."""

# KL and likelihoods are kept to five significant digits: that moves a mean of a thousand positions by less than 1e-5 of
# itself, since single roundings are off by at most 5e-5 of a value and cancel.
_DIGITS = 5


def rounded(values: Iterable[float]) -> tuple[float, ...]:
    """To the digits that are kept. Raises ValueError for NaN and infinities, which are no quality but a failure."""
    found = tuple(float(f"{value:.{_DIGITS}g}") for value in values)
    if not all(isfinite(value) for value in found):
        raise ValueError("quality figures must be finite")
    return found


class QualityPass(Frozen):
    """One text read by the 16-bit reference and by the cell, on one path. Every sequence has an entry a position.

    `corpus_hash`: SHA-256 of the text, or of the token ids of continuations. `window` is the number of tokens read at
    once, BOS not counted, `stride` how many of them are new and scored. `bos`: each window begins with the tokenizer's
    BOS, which it does where the tokenizer puts one before a text by itself. `document_ends`: the number of positions up
    to the end of each document, the blocks of the bootstrap.
    `kl_nats`: KL(P_16bit || P_quantized). `top1_agrees`: `1` where both have the same argmax, else `0`, a character a
    position; `top5_overlap` likewise `0` to `5` shared tokens. `nll_*_nats`: -log P of the text's next token.
    `context_free_kl_nats`: mean KL of a model that answers the same at every position (measure/divergence.py).
    `storage_kl_nats`: mean KL of the reference to itself as it was stored in 16 bit; 0 where it was not, or exactly.
    """

    path: PathName
    corpus: str
    corpus_hash: str
    tokenizer: str
    window: int
    stride: int
    bos: bool
    reference_dtype: str
    context_free_kl_nats: float
    storage_kl_nats: float = 0.0
    document_ends: tuple[int, ...]
    kl_nats: tuple[float, ...]
    top1_agrees: str
    top5_overlap: str
    nll_reference_nats: tuple[float, ...]
    nll_quantized_nats: tuple[float, ...]

    @property
    def num_positions(self) -> int:
        """How many positions were compared."""
        return len(self.kl_nats)

    @property
    def documents(self) -> tuple[slice, ...]:
        """The positions of each document."""
        return tuple(slice(first, end) for first, end in pairwise((0, *self.document_ends)))

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        lengths = {
            len(self.kl_nats), len(self.top1_agrees), len(self.top5_overlap), len(self.nll_reference_nats),
            len(self.nll_quantized_nats), self.document_ends[-1] if self.document_ends else 0,
        }  # fmt: skip
        if len(lengths) != 1:
            raise ValueError(f"a quality pass needs one entry a position, not {sorted(lengths)}")
        if any(end <= first for first, end in pairwise((0, *self.document_ends))):
            raise ValueError("document_ends must grow")
        if set(self.top1_agrees) - set("01") or set(self.top5_overlap) - set("012345"):
            raise ValueError("top1_agrees is of 0 and 1, top5_overlap of 0 to 5")
        return self


class GreedyContinuation(Frozen):
    """The reference's own greedy answer to a prompt and how many of its tokens the cell also chooses, from the first.

    Known from teacher forcing: up to the first token that the cell would choose otherwise, both have read the same.
    """

    prompt_index: int
    num_identical: int
    length: int


class NumericsCheck(Frozen):
    """Each layer's kernel against its dequantized weights, and the step's logits against prefill's (measure/numerics).

    `layer_excess` is the worst layer's error over what is allowed for it: above 1 it fails. `worst_layer` names it with
    the shape of input. `num_unchecked` layers have numbers that this program cannot read from the checkpoint.
    `step_error`: RMS difference of logits in standard deviations of a position's logits, median over positions.
    `seed` repeats the inputs.
    """

    seed: int
    num_layers: int
    num_unchecked: int
    layer_excess: float
    worst_layer: str
    step_error: float


class TaskScores(Frozen):
    """One metric of a task of lm-evaluation-harness, `lm_eval` its version: a score for each document, in its order.

    `documents_hash`: SHA-256 over the harness's own hashes of the documents. `num_fewshot`: examples before each.
    """

    task: str
    task_version: str
    lm_eval: str
    metric: str
    num_fewshot: int
    documents_hash: str
    scores: tuple[float, ...]


class Quality(Frozen):
    """All that one cell's worker found out about quality."""

    passes: tuple[QualityPass, ...]
    continuations: tuple[GreedyContinuation, ...] = ()
    numerics: NumericsCheck | None = None
