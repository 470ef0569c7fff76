"""Stored logits: a 16-bit reference exactly, a float32 one with an error that is stated and small."""

import math

import pytest
import torch

from bitbench.engines.transformers import TransformersEngine, TransformersModel
from bitbench.measure import quality
from bitbench.measure.readings import CPU_AMOUNT, Amount, readings
from bitbench.measure.reference import LiveReference, StoredReference, store
from bitbench.methods.registry import parse_method
from bitbench.results import quality_stats as stats
from tests.engines.tiny import checkpoint, in_float32, make_certain, write_tiny
from tests.measure.test_quality import CORPUS, SIZE, Reader, changed, quiet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def both(reference, cell, folder, report=quiet):
    """The quality of a cell beside the reference, and from its stored logits."""
    live = LiveReference(reference, readings(reference, CORPUS, SIZE, quiet))
    folder.mkdir()
    store(live, folder, report)
    stored = StoredReference(folder, "cpu")
    assert stored.readings == live.readings
    together = stored.together(2, [1, 0])
    assert all(torch.equal(rows, stored.logits(2, text)) for rows, text in zip(together, (1, 0), strict=True))
    return quality.compare(live, cell, quiet), quality.compare(stored, cell, quiet)


def test_a_16_bit_reference_is_stored_exactly(folder, tmp_path):
    loaded = TransformersEngine().load(checkpoint(folder), parse_method("bf16"), "cpu", False)
    reference = Reader(make_certain(loaded._model), None, "cpu")
    told = []
    beside, stored = both(reference, TransformersModel(changed(folder), None, "cpu"), tmp_path / "stored", told.append)
    assert stored == beside
    assert all(one.storage_kl_nats == 0 for one in stored.passes)
    positions = 3 * 9 + 4 * 9 + beside.passes[2].num_positions
    assert (tmp_path / "stored" / "logits.bin").stat().st_size == positions * 512 * 2
    assert told[-1].done == told[-1].total


def test_a_float32_reference_is_stored_with_the_error_that_is_stated(folder, tmp_path):
    reference = Reader(make_certain(in_float32(folder)), None, "cpu")
    beside, stored = both(reference, TransformersModel(changed(folder), None, "cpu"), tmp_path / "stored")
    for exact, kept in zip(beside.passes, stored.passes, strict=True):
        assert 0 < kept.storage_kl_nats < 1e-5
        assert exact.storage_kl_nats == 0
        moved = abs(stats.kl(kept).mean - stats.kl(exact).mean)
        # Cauchy and Schwarz, to first order: docs/quality.md. The roundings of single values in a record come on top.
        bound = 2 * math.sqrt(kept.storage_kl_nats * stats.kl(exact).mean) + kept.storage_kl_nats
        assert moved <= bound * 1.05 + 1e-6
        assert stats.same_positions(exact, kept)


def test_the_greatest_logit_is_zero_and_huge_ones_do_not_overflow(folder, tmp_path):
    reference = Reader(make_certain(in_float32(folder), 4e6), None, "cpu")
    both(reference, reference, tmp_path / "stored")
    stored = StoredReference(tmp_path / "stored", "cpu")
    logits = stored.logits(0, 0)
    assert logits.dtype == torch.float16 and logits.shape == (9, 512)
    assert torch.equal(logits.amax(1), torch.zeros(9, dtype=torch.float16))
    assert logits.isfinite().all()


def test_a_disk_budget_shortens_the_prefill_path_and_never_the_decode_path():
    vocab = 49_152
    whole = CPU_AMOUNT.within(2 * 10**9, vocab)
    assert whole == CPU_AMOUNT
    less = CPU_AMOUNT.within(200 * 10**6, vocab)
    assert less.num_forced == CPU_AMOUNT.num_forced
    rows = less.num_forced_rows + less.num_positions + less.window
    assert rows * 2 * vocab <= 200 * 10**6 < (rows + 1) * 2 * vocab
    with pytest.raises(ValueError, match=r"holds 101 positions of 49152 logits: the decode path alone needs 0\.05 GB"):
        CPU_AMOUNT.within(10**7, vocab)
    assert Amount(8, 8, 100, num_prompts=1, answer_len=2, num_beginnings=0).within(2 * 8 * 12, 8).num_positions == 2
