"""What a run says of each process that ended."""

import io
from typing import cast

from rich.console import Console

from bitbench.cli.progress import Display
from bitbench.facts.samples import PowerSample
from bitbench.runner.plan import Plan
from tests.factories import HOT, record, sample


def said(*records):
    out = io.StringIO()
    display = Display(Console(file=out, width=200), cast(Plan, None))
    for one in records:
        display.recorded(one)
    return out.getvalue().splitlines()


def test_a_process_has_its_speed_and_the_range_so_far():
    assert said(record(tpots=[0.01]), record(tpots=[0.02], process=1)) == [
        "fp16 · process 1: 100.0 tok/s", "fp16 · process 2: 50.0 tok/s, processes 50.0 to 100.0"
    ]  # fmt: skip


def test_a_process_without_a_speed_says_why():
    short = record(samples=[sample(output_len=1)])
    assert said(short) == ["fp16 · process 1: one token, so no decode speed"]
    short_and_cold = record(samples=[sample(), sample(0.01, 1, output_len=1)], power=(*HOT, PowerSample(at_s=100.9)))
    assert said(short_and_cold) == ["fp16 · process 1: one token, so no decode speed"]
    hot = record(tpots=[0.05, 0.05], power=HOT, process=1)
    assert said(hot) == ["fp16 · process 2: the device was slowed down throughout, so not counted"]


def test_a_failure_is_its_reason():
    assert said(record(status="runtime_error", reason="it ended")) == ["fp16 · runtime_error: it ended"]
