"""The loads' names are the kernel's, and the course of a clock comes from what was counted."""

import re

import clock_bursts
import torch
from clock_bursts import Load


def test_the_kernel_knows_every_option():
    names = {option[2:].split("=")[0] for option in Load().options(pieces=1, piece_ns=1)}
    assert all(re.search(rf"\b{name}\b", clock_bursts._SOURCE) for name in names - {"BLOCKS"})  # how many are launched
    assert Load(threads=256, dots=3).differing() == {"threads": 256, "dots": 3}


def test_loads_fit_a_multiprocessor():
    for load in clock_bursts.LOADS:
        threads = load.threads + 32 * load.heaters
        assert load.threads % 32 == 0 and threads <= 1024 and threads * load.blocks <= 2048
    for _, load in clock_bursts.COURSES:  # and a warp that looks
        assert load.blocks == 1 and load.threads + 32 * load.heaters + 32 <= 1024


def test_a_clock_that_slows_down():
    ghz = [2.0, 1.5, 1.5]
    counts = torch.tensor([3, 1, 4, 2])
    cycles = torch.tensor([0.0, *ghz]).cumsum(0) * clock_bursts._PIECE_NS * counts
    assert clock_bursts.clock(cycles, counts) == ghz
    counts[1] = cycles[1] = 0
    assert clock_bursts.clock(cycles, counts) == [None, None, 1.5]
