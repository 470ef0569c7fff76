"""Prompts of any length read at one of a few lengths give what the plain forward gives."""

import pytest
import torch

from bitbench.decode import load
from bitbench.decode.forward import new_cache
from bitbench.decode.prompts import LENGTHS, Prompts
from tests.decode.test_decoder import write_awq
from tests.engines.tiny import prompt_ids, write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("m"), "Qwen2", max_position_embeddings=300)


@torch.inference_mode()
@pytest.mark.parametrize("method", ["fp16", "awq-int4"])
def test_a_prompt_filled_up_gives_the_same_logits_and_cache(folder, tmp_path, method):
    if method == "awq-int4":
        write_awq(tmp_path / "awq", folder)
        folder = tmp_path / "awq"
    decoder = load(folder, method, dtype=torch.float32)
    launched = []

    def capture(run):
        run()  # as a GPU does it before capturing
        return lambda: (launched.append(1), run())

    prompts = Prompts(decoder.forward, "cpu", 2, capture)
    for count in (64, 9, 200, 1, 65, 9):  # the last from a used graph
        ids = prompt_ids(count, seed=count)[0], prompt_ids(count, seed=count + 1)[0]
        found, cache = prompts.read(ids)
        expected_cache = new_cache(decoder.config, 2, count, torch.float32, "cpu")
        expected = decoder.forward.logits(torch.tensor(ids), expected_cache)[:, -1]
        assert torch.allclose(found, expected, atol=2e-5, rtol=1e-4)
        assert cache.length == count
        for ours, theirs in ((cache.keys, expected_cache.keys), (cache.values, expected_cache.values)):
            assert torch.allclose(ours[:, :, :count], theirs, atol=2e-5, rtol=1e-4)
    assert len(launched) == 6


@torch.inference_mode()
def test_what_no_graph_is_for_is_read_directly(folder):
    decoder = load(folder, dtype=torch.float32)

    def refuse(run):
        raise AssertionError("captured")

    long = prompt_ids(270)[0]  # 512 would be longer than the context
    found, cache = Prompts(decoder.forward, "cpu", 1, refuse).read([long])
    assert torch.equal(found[0], decoder.logits(long, 1)[0]) and cache.length == 270
    many = [prompt_ids(40)[0]] * 65  # more tokens than the host is slower at
    assert Prompts(decoder.forward, "cpu", 65, refuse).read(many)[0].shape[0] == 65
    assert Prompts(decoder.forward, "cpu").read([long])[1].room == 270
    assert list(LENGTHS) == sorted(LENGTHS)
