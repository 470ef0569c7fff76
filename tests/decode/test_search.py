"""The search for block sizes: it walks to what is faster, and its clock refuses wrong steps."""

from dataclasses import replace

import pytest
import torch

from bitbench.decode import load
from bitbench.decode.triton_steps import TritonSteps
from bitbench.decode.tuning import Attending, Blocks, defaults
from tests.decode.on_triton import DEVICE, needs_triton
from tests.engines.tiny import write_tiny

search = pytest.importorskip("bitbench.decode.search", reason="needs triton")

START = defaults((8, 0))


def uncaptured(tmp_path, monkeypatch, method, room, batch_size):
    """A small decoder, block sizes that suit it, and its steps, each of which is launched kernel by kernel."""
    monkeypatch.setattr(TritonSteps, "capture", lambda self: None)
    decoder = load(write_tiny(tmp_path / "m", num_hidden_layers=1, vocab_size=128), method)
    tuning = replace(START, products={key: Blocks(64, 64, 4, 2) for key in START.products})
    return decoder, tuning, TritonSteps(decoder.forward, "cpu", room, batch_size, tuning=tuning, multiprocessors=4)


def test_it_walks_to_the_fastest_and_stops_there():
    key = "16bit many short"

    def seconds(tuning):
        blocks = tuning.products[key]
        return abs(blocks.rows - 64) + abs(blocks.elements - 128) + 8 * (blocks.num_warps != 4) + 10

    asked = []
    found, time_s = search.best(START, lambda t: search.neighbours(t, key), seconds, asked.append)
    assert asked[0] == list(search.neighbours(START, key)) and len(asked) > 1
    assert found.products[key] == Blocks(64, 128, 4, START.products[key].num_stages)
    assert time_s == 10
    assert {k: v for k, v in found.products.items() if k != key} == {
        k: v for k, v in START.products.items() if k != key
    }


def test_a_gain_within_the_noise_changes_nothing():
    found, time_s = search.best(START, search.attending, lambda t: 1.0 if t == START else 0.999)
    assert (found, time_s) == (START, 1.0)


@needs_triton
@pytest.mark.skipif(DEVICE != "cpu", reason="steps are not captured here")
def test_its_clock_times_right_steps_and_refuses_wrong_ones(tmp_path, monkeypatch):
    decoder, tuning, steps = uncaptured(tmp_path, monkeypatch, "fp16", 32, 2)
    assert steps.product_keys() == {"16bit many short"}
    clock = search.Clock(steps, 10, 2)
    other = replace(tuning, attending=Attending(16), parts_per_sm=1)
    assert clock.seconds(other) > 0
    assert steps.tuning == other
    before = steps.all_logits().clone()
    steps.compile([tuning, other])  # no kernel is run
    assert torch.equal(steps.all_logits(), before) and steps.tuning == other
    decoder.forward.weights.layers[0].down.weight_OI.mul_(3)
    with pytest.raises(RuntimeError, match="wrong logits"):
        clock.seconds(tuning)


@needs_triton
@pytest.mark.skipif(DEVICE != "cpu", reason="steps are not captured here")
def test_the_search_goes_through_all_products_and_says_what_it_found(tmp_path, monkeypatch):
    _, tuning, steps = uncaptured(tmp_path, monkeypatch, "int8-wo", 16, 1)
    monkeypatch.setattr(search, "neighbours", lambda t, key: [replace(t, norm_warps=8)])
    monkeypatch.setattr(search, "attending", lambda t: [replace(t, parts_per_sm=1)])
    found, told = search.search(steps, 8, None, told := [].append, num_steps=2), told.__self__
    assert found.measured == {"int8 one short"} and found.products == tuning.products
    assert [line.partition(":")[0] for line in told] == ["int8 one short", told[1], "a step"]
    assert "us before" in told[2] and "us after" in told[2]


def test_candidates_are_within_bounds_and_differ_in_one_number():
    for key, now in START.products.items():
        found = [t.products[key] for t in search.neighbours(START, key)]
        assert found and now not in found
        for blocks in found:
            assert 256 <= blocks.rows * blocks.elements <= 16_384
            fields = ("rows", "elements", "num_warps", "num_stages")
            assert sum(getattr(blocks, f) != getattr(now, f) for f in fields) == 1
        assert torch.tensor([b.rows for b in found]).min() >= (16 if " many " in key else 1)
