from bitbench.reports.engines import engines_beside
from bitbench.reports.table import table
from bitbench.results.record import Record
from bitbench.results.summary import summarize
from tests.factories import record


def _records() -> list[Record]:
    """Two engines; one has a second kernel, one a failure, and each a method that the other has not."""
    fused, eager = {"engine": "fused"}, {"engine": "transformers"}
    return [
        record("fp16", [0.001], where=fused),
        record("int8-wo", [0.0005], bits=4, where=fused),
        record("awq-int4", [0.0004], bits=4, where=fused),
        record("fp16", [0.01], where=eager),
        record("awq-int4:marlin", [0.02], bits=4, where=eager),
        record("awq-int4:gemm", [0.04], bits=4, where=eager),
        record("bnb-nf4", status="out_of_memory", reason="no memory", where=eager),
    ]


def test_each_method_has_the_fastest_of_its_kernels_under_each_engine() -> None:
    section, gains = engines_beside(summarize(_records()))
    assert list(section.head) == ["method", "transformers", "fused", "ceiling"]  # the slowest engine first
    speeds = {method: [cell.partition(" ")[0] for cell in cells] for method, *cells in section.rows}
    assert speeds["fp16"] == ["100", "1,000", "4,000"]
    assert speeds["awq-int4"] == ["50.0", "2,500", "4,000"]
    assert speeds["int8-wo"] == ["", "2,000", "4,000"]
    assert speeds["bnb-nf4"] == ["out_of_memory", "", "-"]
    assert section.rows[0][2] == "1,000 (25 %)"
    assert ["awq-int4", "0.50x", "2.50x"] in gains.rows
    assert not any(method == "bnb-nf4" for method, *_ in gains.rows)


def test_one_engine_or_another_workload_or_machine_has_nothing_beside_it() -> None:
    assert not engines_beside(summarize([r for r in _records() if r.cell.engine == "fused"]))
    other = record("fp16", [0.01], where={"engine": "transformers", "workload": "p512-n64"})
    assert not engines_beside(summarize([_records()[0], other]))
    failed = record("fp16", status="unsupported", reason="no", where={"engine": "transformers"})
    assert not engines_beside(summarize([_records()[0], failed]))


def test_the_table_has_it_once_below_all_engines() -> None:
    text = table(summarize(_records()), 100).plain
    assert text.count("Engine beside engine") == 1
    assert text.index("Engine beside engine") > text.index("out_of_memory: no memory")
