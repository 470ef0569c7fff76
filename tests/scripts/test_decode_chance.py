"""Buffers that are moved one at a time end where steps are faster."""

import random

import decode_chance
import torch


def test_a_buffer_stays_where_it_is_faster():
    buffers = {"a": torch.ones(3, 5, dtype=torch.int64), "b": torch.ones(40, dtype=torch.int64)}

    def step_us(places):  # the later within a page, the slower, and slowest where they are first
        assert places["a"].shape == (3, 5) and places["b"].shape == (40,)
        return 200.0 + sum(4096 if t is buffers[name] else t.data_ptr() % 4096 for name, t in places.items())

    found, trials = decode_chance.one_at_a_time(buffers, step_us, 20, random.Random(0))
    assert [t["moved"] for t in trials] == ["a", "b"] * 20
    assert step_us(found) == min(min(t["before_us"], t["after_us"]) for t in trials) < step_us(buffers) - 1000
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in found.values())
    assert spans[0][1] <= spans[1][0]
