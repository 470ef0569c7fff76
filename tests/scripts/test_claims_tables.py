import json
from pathlib import Path

import claims_tables
import pytest

import docs

RESULTS = docs.ROOT / "results"
PAGE = (docs.DOCS / "claims.md").read_text(encoding="utf-8")


def changed(tmp_path: Path, name: str, old: str, new: str) -> Path:
    """A copy of a record file that says something else."""
    text = (RESULTS / name).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new), encoding="utf-8")
    return tmp_path / name


def test_page_is_in_step_with_the_records():
    assert docs.filled(PAGE) == PAGE


def test_page_shows_every_table():
    for name, part in claims_tables.TABLES:
        assert (f"{name} {part}" if part else name).removeprefix("records ") in PAGE, (name, part)


def test_probes_follow_the_record(tmp_path):
    assert claims_tables.table(RESULTS / "instructions.json") in PAGE
    other = changed(tmp_path, "instructions.json", "IMMA.8832.S4.S4", "IMMA.8816.S8.S8")
    assert claims_tables.table(other) not in PAGE


@pytest.mark.parametrize(
    ("part", "old", "new"), [("w4a16", "HMMA.1688.F32", "HMMA.9"), ("int8", "kInt8VectorQuant", "k")]
)
def test_libraries_follow_the_record(tmp_path, part, old, new):
    name = "library-instructions.json"
    assert claims_tables.table(RESULTS / name, part) in PAGE
    assert claims_tables.table(changed(tmp_path, name, old, new), part) not in PAGE


def test_records_behind_the_verdicts():
    """What the page says in words. Where this fails, a verdict has to change."""
    results = json.loads((RESULTS / "instructions.json").read_text(encoding="utf-8"))["results"]
    int4 = {r["arch"]: r["outcome"] for r in results if r["probe"] == "mma.sync s4 m8n8k32"}
    assert int4 == dict.fromkeys(("sm_75", "sm_80", "sm_89"), "native") | dict.fromkeys(("sm_90", "sm_100"), "emulated")
    libraries = json.loads((RESULTS / "library-instructions.json").read_text(encoding="utf-8"))["libraries"]
    kernels = [k for library in libraries for held in library["archs"].values() for k in held]
    assert not any(k["instances_with"]["IMMA"] for k in kernels)
    bitsandbytes = next(library for library in libraries if library["label"].startswith("bitsandbytes"))
    assert "cublasLtMatmul" in bitsandbytes["imports"]
    for held in bitsandbytes["archs"].values():
        assert [k["kernel"] for k in held if "signed char*" in k["pointers"]] == ["kInt8VectorQuant"]


def test_unknown_part_names_the_parts():
    with pytest.raises(ValueError, match=r"no table 'x' of instructions\.json"):
        claims_tables.table(RESULTS / "instructions.json", "x")
