"""The comparison of engines' tokens: equal ones, a tie, and a wrong token, which must be called a bug."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitbench.facts.messages import Checkpoint, PrepareTask
from bitbench.facts.models import parse_model
from bitbench.methods.checkpoint import prepare
from tests.methods.models import write_model

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts" / "same_tokens.py"


def script():
    spec = importlib.util.spec_from_file_location("same_tokens", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["same_tokens"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def plain(tmp_path, own_cache) -> Checkpoint:
    folder = write_model(tmp_path / "model")
    return prepare(PrepareTask(model=parse_model(str(folder)), method="fp16", device="cpu"), lambda _: None)


def test_a_wrong_token_is_a_bug_and_a_near_equal_one_a_tie(plain):
    same_tokens = script()
    reference = same_tokens.load("transformers", plain, "bf16", "cpu")
    batches = same_tokens.prompts(reference, 4, 2)
    assert len({len(batch[0]) for batch in batches}) == 4
    expected = [reference.generate(batch, 12, None) for batch in batches]
    got = [[list(row) for row in batch] for batch in expected]
    logits = reference.logits([*batches[1][0], *expected[1][0][:6]], 1)[0]
    got[1][0][5] = int(logits.argmin())
    counts, found = same_tokens.compare(reference, batches, expected, got)
    assert counts == {"sequences": 8, "sequences_equal": 7, "tokens_compared": 7 * 12 + 6, "tokens_equal": 7 * 12 + 5}
    assert [(d.prompt, d.row, d.position) for d in found] == [(1, 0, 5)]
    assert found[0].chosen_gap > found[0].top_two_gap >= 0
    sequence = [*batches[1][0], *expected[1][0][:5]]
    errors = same_tokens.rounding_errors("bf16", "cpu", plain, plain, [sequence])
    same_tokens.judge(found, errors)
    assert found[0].verdict == "bug"
    assert found[0].gap_in_errors > 10
    found[0].chosen_gap = 1.9 * errors[0]
    same_tokens.judge(found, errors)
    assert found[0].verdict == "tie"


@pytest.mark.parametrize("method", ["bnb-nf4", "bnb-int8"])
def test_rounding_is_small_beside_quantization(plain, method):
    """The float32 run of NF4 is of the NF4 model: against the unquantized one the difference would be far greater."""
    same_tokens = script()
    reference = same_tokens.load("transformers", plain, method, "cpu")
    sequence = same_tokens.prompts(reference, 1, 1)[0][0]
    error = same_tokens.rounding_errors(method, "cpu", plain, plain, [sequence])[0]
    unquantized = same_tokens.load("transformers", plain, "bf16", "cpu")
    difference = reference.logits([*sequence, 0], 1) - unquantized.logits([*sequence, 0], 1)
    quantization = float(difference.square().mean().sqrt())
    assert 0 < error < quantization / 2


def test_the_command_writes_counts_of_each_engine(tmp_path):
    write_model(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "model"), "--method", "bf16",
         "--engine", "graphed", "--prompts", "4", "--new-tokens", "8", "--out", str(tmp_path / "o.json")],
        env=os.environ | {"BITBENCH_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    made = json.loads((tmp_path / "o.json").read_text())
    rows = [(method["method"], row) for method in made["methods"] for row in method["engines"]]
    assert [name for name, _ in rows] == ["bf16"]
    for _, row in rows:
        assert row["status"] == "ok"
        assert row["sequences"] == 4
        assert row["second_time_equal"]
        assert row["ties"] + row["bugs"] == len(row["divergences"]) == 4 - row["sequences_equal"]
    assert done.returncode == (1 if any(row["bugs"] for _, row in rows) else 0), done.stderr
