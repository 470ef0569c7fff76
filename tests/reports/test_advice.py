from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbench.facts.status import Status
from bitbench.reports.advice import FAILED_ADVICE, OTHER_ENGINE_NOTE, QUALITY_NOTE, advise, remarks
from bitbench.reports.groups import groups
from bitbench.results.record import Record
from bitbench.results.summary import summarize
from tests.factories import h200, processes, record

EVEN = (0.99, 1.0, 1.01, 1.0, 0.995)


def _row(
    name: str, tpot: float, gb: float, bits: float = 4, around: tuple[float, ...] = EVEN, **fields
) -> list[Record]:
    return processes(name, [tpot * a for a in around], weights=int(gb * 1e9), bits=bits, **fields)


def _advice(records: list[Record]) -> dict[str, str]:
    (group,) = groups(summarize(records))
    return {a.label: a.text for a in advise(group)}


BASE = _row("base", 0.0010, 1.0, bits=16)


@pytest.mark.parametrize(
    ("others", "row", "said"),
    [
        ([], "base", "nothing else was measured"),
        (_row("one", 0.0006, 0.4), "one", "take it, if its quality will do: 1.67x (95% "),
        (_row("one", 0.0006, 0.4), "base", "one is 1.67x (95% "),
        (_row("one", 0.0020, 0.4), "one", "only when memory is short: saves 0.600 GB of weights (60 %), at 0.50x"),
        (_row("one", 0.0020, 0.4), "base", "and the fastest row: take it while 1.00 GB of weights fit"),
        (_row("one", 0.0020, 1.0), "one", "take base instead: 2.00x"),
        (_row("one", 0.0020, 1.5), "one", "take base instead: 2.00x (95% 1.98–2.02) as fast as this and 33 % smaller"),
        (_row("one", 0.0006, 1.5), "one", "and 50 % larger: take it where speed is all that counts"),
        (_row("one", 0.0006, 1.5), "base", "what is faster here needs more memory"),
        (_row("one", 0.0010, 0.4), "one", "AMBIGUOUS: 1.00x"),
        (_row("one", 0.0010, 0.4), "one", "saves 0.600 GB of weights (60 %)"),
        (_row("one", 0.0010, 0.4), "base", "no row is measurably faster"),
        (_row("one", 0.0010, 0.6) + _row("two", 0.0010, 0.4), "one", "two is not measurably slower and smaller still"),
        (_row("one", 0.0020, 0.6) + _row("two", 0.0015, 0.4), "one", "take two instead: 1.33x"),
        (_row("one", 0.0011, 0.4, around=(0.8, 1.2, 1.0, 0.9, 1.1)), "one", "AMBIGUOUS: 0.91x"),
        (_row("one", 0.0013, 0.4, around=(1.0,)), "one", "AMBIGUOUS: 0.77x the baseline's speed; one process each"),
        (_row("one", 0.0030, 0.4, around=(1.0,)), "one", "only when memory is short"),
        (_row("one", 0.0020, 0.4, peak=2_000_000_000), "one", "but its peak is no lower (2.00 GB against 1.05 GB)"),
    ],
)  # fmt: skip
def test_the_advice_follows_from_speed_and_size(others: list[Record], row: str, said: str) -> None:
    assert said in _advice([*BASE, *others])[row]


def test_without_a_16_bit_row_only_quantized_rows_are_compared() -> None:
    found = _advice([*_row("one", 0.002, 0.6), *_row("two", 0.001, 0.6)])
    assert found["one"].startswith("take two instead")
    assert found["two"].startswith("no 16-bit row")


def test_without_sizes_nothing_is_said_about_them() -> None:
    found = _advice([*BASE, *processes("one", [0.002] * 5, bits=4, memory=None)])
    assert found["one"].startswith("slower than the baseline (0.50x (95% ")
    assert not any(word in found["one"] for word in ("smaller", "larger", "large", "saves"))


@pytest.mark.parametrize("status", [s for s in get_args(Status) if s != "ok"])
def test_a_failed_row_is_told_what_to_do(status: Status) -> None:
    found = _advice([*BASE, record("one", status=status, reason="r", bits=4)])
    assert found["one"].startswith(FAILED_ADVICE[status])
    assert ("the row with the lowest peak is base (1.05 GB)" in found["one"]) == (status == "out_of_memory")


def test_remarks_name_other_engines_only_where_all_rows_are_far_below_the_ceiling() -> None:
    (slow,) = groups(summarize(h200()))
    assert remarks(slow) == [OTHER_ENGINE_NOTE, QUALITY_NOTE]
    (near,) = groups(summarize([*h200(), *_row("near", 0.0002, 0.4)]))
    assert remarks(near) == [QUALITY_NOTE]
    (failed,) = groups(summarize([record(status="timeout")]))
    assert remarks(failed) == []


NUMBERS = st.tuples(st.sampled_from([0.0004, 0.0007, 0.001, 0.0013, 0.002]), st.sampled_from([0.3, 0.4, 1.0, 1.3]))


@given(one=NUMBERS, two=NUMBERS, bits=st.sampled_from([4, 8]))
def test_swapping_the_numbers_of_two_rows_swaps_their_advice(
    one: tuple[float, float], two: tuple[float, float], bits: float
) -> None:
    before = _advice([*BASE, *_row("m-one", *one, bits), *_row("m-two", *two, bits)])
    after = _advice([*BASE, *_row("m-one", *two, bits), *_row("m-two", *one, bits)])

    def swapped(text: str) -> str:
        return text.replace("m-one", "#").replace("m-two", "m-one").replace("#", "m-two")

    # Of two equal rows either may be named to the third, so only their own lines are compared then.
    assert swapped(before["m-one"]) == after["m-two"]
    assert swapped(before["m-two"]) == after["m-one"]


RENAMED = {"fp16": "W", "bnb-int8": "X", "bnb-nf4": "bf16", "awq-int4:gemm": "Y", "awq-int4:marlin": "fp16"}


def test_renaming_methods_changes_nothing_but_the_labels() -> None:
    def renamed(records: list[Record]) -> list[Record]:
        return [
            r.model_copy(
                update={"cell": r.cell.model_copy(update={"method": RENAMED[r.cell.method_label], "kernel": None})}
            )
            for r in records
        ]

    records = [r for r in h200() if r.status == "ok"]
    before, after = _advice(records), _advice(renamed(records))
    assert set(after) == set(RENAMED.values())
    for old, new in RENAMED.items():
        expected = before[old]
        for i, label in enumerate(sorted(RENAMED, key=len, reverse=True)):
            expected = expected.replace(label, f"#{i}#")
        for i, label in enumerate(sorted(RENAMED, key=len, reverse=True)):
            expected = expected.replace(f"#{i}#", RENAMED[label])
        assert after[new] == expected


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_no_row_is_sent_to_a_slower_or_larger_one(numbers: list[tuple[float, float]]) -> None:
    sizes = {"base": (0.001, 1.0), **{f"m-{i}": n for i, n in enumerate(numbers)}}
    found = _advice([*BASE, *(r for i, n in enumerate(numbers) for r in _row(f"m-{i}", *n))])
    for here, there in product(sizes, sizes):
        if f"take {there} instead" in found[here]:
            assert sizes[there][0] < sizes[here][0]
            assert sizes[there][1] <= sizes[here][1]
