"""Quality passes made quickly, with the figures a test wants."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from bitbench.facts.quality import QualityPass, rounded


def quality_pass(
    documents: Sequence[Sequence[float]],
    top1: str = "",
    top5: str = "",
    nll: tuple[Sequence[float], Sequence[float]] | None = None,
    **fields: Any,
) -> QualityPass:
    """A pass whose KL is `documents`, a list for each."""
    kls = [value for document in documents for value in document]
    given = {
        "path": "decode",
        "corpus": "test",
        "corpus_hash": "0",
        "tokenizer": "test",
        "window": 64,
        "stride": 64,
        "bos": False,
        "reference_dtype": "bfloat16",
        "context_free_kl_nats": 4.0,
    }
    return QualityPass(
        **given | fields,
        document_ends=tuple(accumulate(len(document) for document in documents)),
        kl_nats=rounded(kls),
        top1_agrees=top1 or "1" * len(kls),
        top5_overlap=top5 or "5" * len(kls),
        nll_reference_nats=rounded(nll[0] if nll else kls),
        nll_quantized_nats=rounded(nll[1] if nll else kls),
    )
