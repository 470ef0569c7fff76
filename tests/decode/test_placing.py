"""Where polled buffers are put."""

import time
from itertools import pairwise

import torch

from bitbench.decode.placing import tried


def test_buffers_are_moved_one_at_a_time_and_stay_where_steps_take_less():
    buffers = {name: torch.ones(100, dtype=torch.int64) for name in "abc"}
    seen: list[dict[str, int]] = []

    def costs(places):  # of lines, and what they cost adds up
        return {name: places[name].data_ptr() // 128 % 512 for name in buffers}

    def seconds(places):
        seen.append(costs(places))
        return float(sum(seen[-1].values()))

    found, took = tried(buffers, "abc", seconds, tries=4, rounds=10)
    at_once, moves = seen[:8], seen[8:]
    assert len(moves) == 2 * 2 * 3 * 10
    assert all(sum(one[name] != other[name] for name in buffers) <= 1 for one, other in pairwise(moves))
    assert sum(moves[0].values()) == min(took) == min(sum(one.values()) for one in at_once)
    assert costs(found) == {name: min(one[name] for one in moves) for name in buffers}


def test_moving_ends_after_a_second(monkeypatch):
    buffers = {name: torch.ones(100, dtype=torch.int64) for name in "abc"}
    now, calls = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def seconds(places):
        now[0] += 0.125
        calls.append(places)
        return 1.0

    tried(buffers, "abc", seconds, tries=2, rounds=10)
    assert len(calls) == 2 * 2 + 3 * 4  # a move takes half a second; at one second exactly there is one more


def test_the_fastest_of_the_places_is_taken_and_nothing_overlaps():
    buffers = {"a": torch.ones(3, 5, dtype=torch.int64), "b": torch.ones(40, dtype=torch.int64), "c": torch.ones(1)}
    seen: list[tuple[int, float]] = []

    def seconds(places):
        spans = sorted((t.data_ptr() // 128, (t.data_ptr() + t.nbytes - 1) // 128) for t in places.values())
        assert spans[0][1] < spans[1][0], "a line of its own for each"
        for place in places.values():
            place.fill_(7)
        took = len(seen) % 5 + 1.0  # each place is tried twice in a row: 1 2, 3 4, 5 1, 2 3
        seen.append((places["a"].data_ptr(), took))
        return took

    found, took = tried(buffers, ("a", "b"), seconds, tries=4)
    assert took == (1, 3, 1, 2)
    assert len(seen) == 8
    assert [a for a, _ in seen[::2]] == [a for a, _ in seen[1::2]]
    assert len({a for a, _ in seen}) > 1
    assert found["a"].data_ptr() == next(a for a, took in seen if took == 1)
    assert set(found) == {"a", "b"}
    assert [found[n].shape for n in "ab"] == [buffers[n].shape for n in "ab"]
    assert not found["a"].any()
    assert not found["b"].any()
