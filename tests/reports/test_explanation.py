import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbench.explain.experiments import experiments
from bitbench.explain.rows import explain
from bitbench.facts.profile import KernelTime, RoleTime
from bitbench.reports.explanation import explanation
from bitbench.reports.explanation_markdown import explanation_json, explanation_markdown
from bitbench.reports.why import shortened
from bitbench.results.record import Record
from bitbench.results.summary import summarize
from tests.factories import explained_h200, processes, profile, record, sample
from tests.golden import DATA, explanation_text

BARE = profile(kernels=(), roles=(), num_kernels=0.0, bytes_read=None)


def _text(records: list[Record], width: int = 100) -> str:
    rows = summarize(records)
    return explanation(explain(rows), experiments(rows), width).plain


def test_the_explanation_at_100_columns_is_the_committed_one() -> None:
    committed = (DATA / "explanation-100.txt").read_text()
    assert explanation_text() == committed, "look at the new explanation, then python -m tests.golden"


@given(width=st.integers(60, 160), name=st.text(st.characters(codec="ascii"), min_size=1, max_size=300))
def test_no_line_is_wider_than_the_terminal(width: int, name: str) -> None:
    kernel = KernelTime(name=name, role="projections", num_launches=3.0, busy_s=1e-3)
    records = [*explained_h200(), *processes("nf4", [0.01] * 5, profiles=(profile(kernels=(kernel,)),))]
    assert max(map(len, _text(records, width).splitlines())) <= width


def test_a_profile_that_was_refused_is_shown_with_its_reason() -> None:
    refused = [
        profile(s, source="none", busy_s=None, roles=(), kernels=(), note="the container forbids it")
        for s in ("decode", "prefill")
    ]
    text = _text(processes("fp16", [0.01] * 5, profiles=tuple(refused)))
    assert text.count("profile: the container forbids it") == 1
    assert "! no profile (fp16)" in text
    partly = _text(processes("fp16", [0.01] * 5, profiles=(profile(note="two kernels had no name"),)))
    assert "profile: decode: two kernels had no name" in partly and "! no profile" not in partly


def test_rows_of_several_engines_that_lack_a_profile_are_told_apart() -> None:
    text = _text(
        [
            *processes("fp16", [0.01] * 5, profiles=(profile(),)),
            *processes("nf4", [0.01] * 5),
            *processes("fp16", [0.01] * 5, where={"engine": "vllm"}),
        ]
    )
    assert "! no profile (nf4 on transformers, fp16 on vllm)" in text


def test_a_doubtful_time_is_said_to_be_one() -> None:
    text = _text(processes("fp16", [0.01] * 5, profiles=(profile(),), flags=("busy_host",)))
    assert "beware: this row is marked busy_host" in text


@pytest.mark.parametrize(
    "records",
    [
        [record(status="timeout", reason="silent")],
        [record(samples=[sample(output_len=1)], output_len=1)],
        [record(bandwidth=None, memory=None)],
        processes("fp16", [0.01] * 5, profiles=(BARE,), bandwidth=None),
        processes("fp16", [0.01] * 5, profiles=(profile(source="operators"),), where={"device": "cpu"}),
        explained_h200(),
    ],
)  # fmt: skip
def test_every_format_takes_what_is_missing(records: list[Record]) -> None:
    rows = summarize(records)
    told, tested = explain(rows), experiments(rows)
    for text in (_text(records), explanation_markdown(told, tested), explanation_json(told, tested)):
        assert rows[0].method in text
        assert "None" not in text and "nan" not in text.lower().split()


def test_markdown_tables_have_equally_many_cells_in_every_row() -> None:
    rows = summarize(explained_h200())
    text = explanation_markdown(explain(rows), experiments(rows))
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 6
    assert all(len({line.count("|") for line in block.splitlines()}) == 1 for block in blocks)


def test_long_names_keep_both_ends() -> None:
    name = "void cutlass::Kernel2<cutlass_80_wmma_tensorop_f16_s161616gemm_f16_16x16_128x2_tn_align8>(T1::Params)"
    short = shortened(name, 40)
    assert len(short) == 40 and short.startswith("cutlass::Kernel2") and short.endswith("::Params)")
    assert shortened("gemv", 40) == "gemv"


def test_a_kernel_that_runs_for_several_steps_is_told_so_and_has_no_gaps() -> None:
    role = RoleTime(role="whole_step", busy_s=9.5e-4, num_kernels=0.125, bytes_read=990_000_000)
    kernel = KernelTime(name="decode_steps", role="whole_step", num_launches=0.125, busy_s=9.5e-4)
    one = profile(busy_s=9.5e-4, num_kernels=0.125, syncs={}, roles=(role,), kernels=(kernel,))
    fused = {"where": {"engine": "fused"}, "itl_clock": "device", "node_gap_s": 1e-6}
    text = " ".join(_text(processes("fp16", [1e-3] * 5, profiles=(one,), **fused)).split())
    assert "one kernel runs for 8 steps: no host and no gap between kernels is in it" in text
    assert "decode_steps whole_step 1 in 8 7,600" in text
    assert "account: 950 us busy of 1.00 ms measured, 49.9 us (5.0 %) unexplained: the step is accounted for" in text
    assert "gaps" not in text.replace("no gap between kernels", "")
