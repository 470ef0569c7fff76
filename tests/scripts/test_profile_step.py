"""Samples are counted once, by reasons, and machine code is cut where warps or lanes meet, or send."""

import profile_step
import pytest

HEADER = '"Address","Source","Instructions Executed","stall_wait","stall_long_sb","stall_wait (Not Issued)"'
PAGE = f""""Kernel Name","decode_steps",
{HEADER}
"0x00","LDG.E R0, desc[UR4][R2.64]","1,000","10","","9"
"0x10","BAR.SYNC.DEFER_BLOCKING 0x1, 0xe0","1,000","5","85","5"
"0x20","@!P1 IADD3 R0, R0, R1, RZ","500","100","","100"
"""


def test_samples_by_reasons_and_stretches():
    found = profile_step.summary(profile_step.rows(PAGE))
    assert (found["samples"], found["instructions"]) == (200, 3)
    assert found["why"] == {"wait": 57.5, "long_sb": 42.5}
    first, second = found["stretches"]
    assert (first["first"], first["instructions"], first["executed"], first["share"]) == (0, 2, 1000, 50.0)
    assert first["last"].startswith("BAR.SYNC") and first["why"] == {"long_sb": 42.5, "wait": 7.5}
    assert (second["first"], second["executed"], second["why"]) == (2, 500, {"wait": 50.0})
    assert first["operations"] == {"LDG": 1000, "BAR": 1000} and second["operations"] == {"IADD3": 500}


def test_little_is_left_out():
    page = profile_step.rows(PAGE) * 1000
    page[0] = dict(page[0], stall_wait="1,000,000")
    found = profile_step.summary(page)
    assert len(found["stretches"]) == 1 and sum(found["why"].values()) == pytest.approx(100, abs=0.1)
