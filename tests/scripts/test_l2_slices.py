"""Slices are told from made-up distances, and lines spread over them."""

import random

import l2_slices
import pytest
import torch


def test_lines_of_a_slice_are_found_by_their_distances():
    draw = torch.Generator().manual_seed(0)
    centres = 240 + 8 * torch.randn(96, 132, generator=draw)
    true = torch.randint(96, (1000,), generator=draw)
    first, second = (centres[true] + 0.7 * torch.randn(1000, 132, generator=draw) for _ in range(2))
    found, noise = l2_slices.slices(first, second)
    assert noise == pytest.approx(0.7, rel=0.05)
    names = {}
    assert all(names.setdefault(number, int(of)) == of for number, of in zip(found, true, strict=True))
    assert len(names) == len(set(true.tolist())) == len(set(names.values()))


@pytest.mark.parametrize("count", [28, 96, 224])
def test_lines_are_spread_evenly(count):
    draw = random.Random(1)
    slice_of = [draw.randrange(96) for _ in range(4096)]
    lines = l2_slices.evenly(slice_of, count, draw)
    assert len(set(lines)) == count
    assert l2_slices.most_of_a_slice(slice_of, lines) == -(-count // 96)
    by_chance = l2_slices.most_of_a_slice(slice_of, draw.sample(range(4096), 224))
    assert by_chance > 4
