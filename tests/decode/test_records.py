"""Records of our own kernels say of which source they are; results/README.md must say which are of an older one."""

import json
import re
from pathlib import Path

import pytest

from bitbench.decode.paths import source_hash
from tests.decode.gpus import A100, H200

RESULTS = Path(__file__).parents[2] / "results"


def hashes(path: Path) -> set[str]:
    """Of all lines that name one: those of `scripts/decode_steps.py`, and records of the engine fused."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    named = [line.get("kernel_source") or (line.get("kernel") or {}).get("source") for line in lines]
    return {name for name in named if name}


FILES = [path.name for path in sorted(RESULTS.glob("*.jsonl")) if hashes(path)]


@pytest.mark.parametrize("name", FILES)
def test_the_readme_says_which_records_are_of_an_older_kernel(name):
    readme = (RESULTS / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{re.escape(name)}` \|.*$", readme, re.MULTILINE)
    now = {source_hash(path, gpu) for path in ("step kernel", "Triton") for gpu in (H200, A100)}
    current = bool(now & hashes(RESULTS / name))
    assert current != ("older kernel" in row), (
        f"the kernels' sources are {now}: "
        f"{'its row' if current else 'measure ' + name + ' again, or its row'} in results/README.md must "
        f"{'not ' if current else ''}say 'older kernel'"
    )


def test_there_are_such_records():
    assert "h100-decode-steps.jsonl" in FILES
