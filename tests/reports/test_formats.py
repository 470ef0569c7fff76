import csv
import io
import json
import subprocess
import sys

import pytest

from bitbench.explain.rows import VERDICTS
from bitbench.reports.formats import FORMATS, render
from bitbench.results.metrics import LABELS, METRICS
from bitbench.results.summary import summarize
from tests.factories import ending, h200, processes, record

ROWS = summarize([*h200(), record("odd", status="runtime_error", reason='a | "b"\nc, <d>', bits=4)], [ending()])


def test_json_is_a_list_of_rows_with_all_keys() -> None:
    found = json.loads(render(ROWS, "json", 100))  # type: ignore[arg-type]
    assert [row["method"] for row in found] == [s.method for s in ROWS]
    assert all(set(row) == {*LABELS, *METRICS, *VERDICTS} for row in found)
    first = found[0]
    assert first["decode_tokens_per_s"] == pytest.approx(57.142857)
    low, high = first["decode_tokens_per_s_interval"]
    assert low < first["decode_tokens_per_s"] < high
    assert (first["interval_kind"], first["baseline"], first["speedup"]) == ("t95", "fp16", 1.0)
    assert found[-1]["status"] == "runtime_error" and found[-1]["decode_tokens_per_s"] is None


def test_csv_has_the_same_rows_and_survives_awkward_reasons() -> None:
    found = list(csv.DictReader(io.StringIO(str(render(ROWS, "csv", 100)))))
    assert [row["method"] for row in found] == [s.method for s in ROWS]
    assert float(found[0]["tpot_s"]) == ROWS[0].tpot_s
    assert (
        float(found[0]["decode_tokens_per_s_interval_low"]) < 57 < float(found[0]["decode_tokens_per_s_interval_high"])
    )
    assert found[-1]["reason"] == 'a | "b"\nc, <d>' and found[-1]["tpot_s"] == ""
    assert str(render([], "csv", 100)).strip() == ",".join(found[0])


def test_markdown_tables_have_equally_many_cells_in_every_row() -> None:
    text = str(render([*ROWS, *summarize([record(where={"engine": "fused"})])], "markdown", 100))
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4  # of each engine, and both beside each other
    for block in blocks:
        counts = {line.replace("\\|", "").count("|") for line in block.splitlines()}
        assert len(counts) == 1
    assert 'runtime_error: a \\| "b" c, &lt;d>' in text


def test_markdown_holds_advice_warnings_and_definitions() -> None:
    text = str(render(ROWS, "markdown", 100))
    assert "- **bnb-int8**: take awq-int4:marlin instead" in text
    assert "- **!** reading weights does not set these speeds" in text
    assert "- **TPOT**: (end-to-end - TTFT)" in text
    assert "of ceiling, %" in text


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_format_takes_no_rows_failures_and_single_tokens(output_format: str) -> None:
    assert render([], output_format, 100) is not None
    failed = summarize([record(status="timeout", reason="silent")])
    assert "timeout" in str(render(failed, output_format, 100))
    assert "fp16" in str(render(summarize(processes("fp16", [0.01])), output_format, 100))


def test_an_unknown_format_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="unknown format 'xml': choose from table, markdown, csv, json"):
        render(ROWS, "xml", 100)


def test_reports_are_made_without_torch() -> None:
    code = (
        "import sys; import bitbench.reports.formats, bitbench.results.store; "
        "print([m for m in ('torch', 'transformers', 'triton', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
