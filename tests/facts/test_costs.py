"""Bytes by arithmetic: against figures measured elsewhere and against counting by hand."""

import pytest

from bitbench.facts import costs
from bitbench.facts.models import SHAPES
from bitbench.facts.scheme import FP16, LLM_INT8, NF4, w4a16

QWEN = SHAPES["qwen2.5-0.5b"]


@pytest.mark.parametrize(
    ("scheme", "gigabytes"),
    # allocator figures of an H200 with the real libraries (published.csv: 0.988, 0.631, 0.474, 0.458)
    [(FP16, 0.988), (LLM_INT8, 0.631), (NF4, 0.474), (w4a16(128), 0.458)],
)
def test_weights_of_qwen_are_what_the_libraries_allocate(scheme, gigabytes):
    assert costs.weights_bytes(QWEN, scheme) / 1e9 == pytest.approx(gigabytes, abs=6e-4)


@pytest.mark.parametrize(
    ("name", "parameters"),
    # model cards: number of parameters, each table counted once where tied
    [("qwen2.5-0.5b", 494_032_768), ("qwen2.5-1.5b", 1_543_714_304), ("qwen2.5-7b", 7_615_616_512),
     ("llama-3.2-1b", 1_235_814_400), ("llama-3.1-8b", 8_030_261_248), ("smollm2-135m", 134_515_008),
     ("qwen3-0.6b", 596_049_920)],
)  # fmt: skip
def test_parameters_are_those_of_the_model_cards(name, parameters):
    assert costs.weights_bytes(SHAPES[name], FP16) == 2 * parameters


def test_kv_bytes():
    assert costs.kv_bytes_per_token(QWEN) == 2 * 24 * 2 * 64 * 2


def test_a_step_reads_the_tied_table_once_and_no_untied_embedding():
    assert costs.bytes_per_step(1000, 300, 10, 5.0, 2) == 1000 - 300 + 100


def test_group_sizes_round_up():
    assert w4a16(128).linear_bytes(130, 4) == 130 * 4 // 2 + 4 * 2 * 20 // 8
