import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbench.reports.groups import groups, headings
from bitbench.reports.table import table
from bitbench.results.record import Record
from bitbench.results.summary import summarize
from tests.factories import ENVIRONMENT, GPU, h200, processes, record, sample
from tests.golden import DATA, table_text


def _lines(records: list[Record], width: int = 100) -> list[str]:
    return table(summarize(records), width).plain.splitlines()


def _line(records: list[Record], start: str, width: int = 100) -> str:
    return next(line for line in _lines(records, width) if line.startswith(f" {start}"))


def test_the_table_at_100_columns_is_the_committed_one() -> None:
    assert table_text() == (DATA / "table-100.txt").read_text(), "look at the new table, then python -m tests.golden"


@given(
    width=st.integers(60, 160),
    kernel=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=40),
    reason=st.text(st.characters(codec="ascii"), max_size=300),
)
def test_no_line_is_wider_than_the_terminal(width: int, kernel: str, reason: str) -> None:
    records = [*h200(), record("awq-int4:x", status="load_error", reason=reason), record("bf16", kernel=kernel)]
    assert max(map(len, _lines(records, width))) <= width


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_rows_and_their_speeds_are_there_at_every_width(width: int) -> None:
    speeds = {"fp16": "57.1", "bnb-int8": "16.4", "bnb-nf4": "41.3", "awq-int4:gemm": "43.5"}
    for method, speed in speeds.items():
        assert speed in _line(h200(), f"{method} ", width)


def test_columns_that_do_not_fit_are_named() -> None:
    assert not any("wider terminal" in line for line in _lines(h200(), 100))
    narrow = " ".join(_lines(h200(), 70))
    assert "a wider terminal shows" in narrow and "TPOT" in narrow.split("a wider terminal shows")[1][:60]


def test_a_failed_cell_is_a_row_with_its_reason_in_one_paragraph() -> None:
    reason = "CUDA out of memory:\ntried to allocate 2 GB\n\n" + "because " * 20
    found = _lines([record("fp16"), record("bnb-nf4", status="out_of_memory", reason=reason)])
    start = next(i for i, line in enumerate(found) if line.startswith(" bnb-nf4"))
    assert "out_of_memory: CUDA out of memory: tried to allocate 2 GB because" in found[start]
    assert found[start + 1].startswith("     ") and "because" in found[start + 1]


def test_only_failures_make_a_table_too() -> None:
    found = _lines([record("fp16", status="load_error", reason="no such file")])
    assert any("fp16" in line and "load_error: no such file" in line for line in found)


def test_kernels_stand_beside_methods_where_there_is_room_and_below_where_not() -> None:
    wide = _lines(h200(), 130)
    assert any(line.startswith(" bnb-int8 (MatMul8bitLt) ") for line in wide)
    assert any(line.startswith(" kernels: fp16 cuBLAS") for line in _lines(h200(), 100))


def test_columns_nobody_fills_are_not_shown() -> None:
    heads = " ".join(_lines([record(bandwidth=None, memory=None)])[2:4])
    assert heads.split() == ["vs", "TTFT", "TPOT", "method", "tok/s", "fp16", "ms", "ms"]


def test_the_interval_is_called_what_it_is() -> None:
    five, three = processes("fp16", [0.01, 0.011] * 3), processes("four", [0.01, 0.011], bits=4)
    assert "range" not in _lines(five)[4] and "95%" in _lines(five)[3]
    assert "range" in _lines(three)[4]
    assert "r: range" in _lines([*five, *three])[4]
    assert " r " in _line([*five, *three], "four")


def test_headings_name_model_machine_engine_workload_and_ceiling() -> None:
    first, second, third = headings(groups(summarize(h200()))[0])
    assert first == "Tiny (random weights) on NVIDIA H200 · transformers 5.17.0 · starting-20x128 · 5 processes"
    assert "driver 570.1" in second and "torch 2.11.0" in second
    assert third.startswith("read bandwidth 4.00 TB/s (measured), so at most 4,049 tok/s in fp16")


def test_a_cpu_run_is_headed_by_the_cpu() -> None:
    text = " ".join(_lines([record(where={"device": "cpu"})])[:2])
    assert "on Test CPU" in text and "driver" not in text


def test_environments_engines_and_workloads_have_tables_of_their_own_and_it_is_said() -> None:
    other = ENVIRONMENT.model_copy(update={"gpu": GPU.model_copy(update={"driver": "580"})})
    rows = summarize([record(), record(environment=other), record(where={"engine": "fused"})])
    assert len(groups(rows)) == 3
    text = " ".join(table(rows).plain.split())
    assert "records of several environments: never pooled, a table each (2 (they differ in gpu))" in text


def test_two_checkpoints_under_one_name_are_told_apart() -> None:
    found = _lines([record(checkpoint="aaaaaaaaaa"), record(checkpoint="bbbbbbbbbb")])
    assert any(line.startswith(" fp16@aaaaaa") for line in found)
    assert any(line.startswith(" fp16@bbbbbb") for line in found)


def test_notes_are_shown_once_and_with_their_rows() -> None:
    records = [record(notes=("planted", "all")), record("four", bits=4, notes=("all",))]
    assert [line for line in _lines(records) if line.startswith(" * ")] == [" * fp16: planted", " * all"]


def test_definitions_stand_once_and_for_shown_columns_only() -> None:
    other = ENVIRONMENT.model_copy(update={"machine": "ffff"})
    found = _lines([*h200(), record(environment=other)])
    assert sum(line.startswith(" TPOT: ") for line in found) == 1
    assert not any(line.startswith(" J/token: ") for line in _lines([record()]))


def test_one_new_token_still_has_a_table() -> None:
    found = _lines([record(samples=[sample(output_len=1)], output_len=1)])
    assert "TTFT" in " ".join(found) and not any(line.startswith(" tok/s") for line in found)


def test_nothing_to_show() -> None:
    assert table([]).plain == "no records"
