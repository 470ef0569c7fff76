"""Names of workloads, and the committed ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbench.facts.workloads import Workload, parse_workload, starting_prompts


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("starting-20x128", Workload(20, 128)),
        ("starting-4x32", Workload(4, 32)),
        ("p40-n128", Workload(20, 128, 40)),
        ("p512-n64-b8", Workload(20, 64, 512, 8)),
        ("p40-n64@d8192", Workload(20, 64, 40, 1, 8192)),
        ("p40-n64-b2@d16", Workload(20, 64, 40, 2, 16)),
    ],
)
def test_names_and_back(name, expected):
    assert parse_workload(name) == expected
    assert expected.name == name


@pytest.mark.parametrize(
    "name", ["", "starting", "starting-20", "p40", "n128", "p40-n0", "starting-21x8", "p-4-n8", "starting-0x8"]
)
def test_bad_names(name):
    with pytest.raises(ValueError, match=r"unknown workload|must be at least 1|there are 20"):
        parse_workload(name)


def test_text_prompts_run_one_at_a_time():
    with pytest.raises(ValueError, match="one at a time"):
        Workload(4, 8, batch_size=2)


@given(st.integers(1, 64), st.integers(0, 9000), st.integers(1, 4), st.integers(500, 160_000), st.integers(0, 19))
def test_ids_have_the_asked_length_lie_in_the_vocabulary_and_repeat(prompt_len, depth, batch, vocab, index):
    workload = Workload(20, 8, prompt_len, batch, depth)
    rows = workload.token_ids(index, vocab)
    assert [len(row) for row in rows] == [depth + prompt_len] * batch
    assert all(0 <= token < vocab for row in rows for token in row)
    assert rows == workload.token_ids(index, vocab)


def test_prompts_differ_from_each_other():
    workload = parse_workload("p40-n8-b4")
    rows = [tuple(row) for index in range(20) for row in workload.token_ids(index, 49_152)]
    assert len(set(rows)) == 80


def test_ids_of_the_starting_prompts_are_as_long_as_the_texts():
    workload = parse_workload("starting-20x8")
    lengths = [len(workload.token_ids(i, 151_936)[0]) for i in range(20)]
    assert lengths == [prompt.num_tokens for prompt in starting_prompts()]
    assert len(set(lengths)) > 1
