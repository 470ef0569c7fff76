"""The comparison of engines' tokens: equal ones, a tie, and a wrong token, which must be called a bug."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import same_tokens
import torch
import transformers

from bitbench.engines.int8_rows import Int8RowsEmbedding, Int8RowsLinear
from bitbench.facts.messages import Checkpoint, PrepareTask
from bitbench.facts.models import parse_model
from bitbench.methods.checkpoint import prepare
from bitbench.methods.int8_rows import dequantize
from tests.methods.models import tiny, write_model

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts" / "same_tokens.py"


@pytest.fixture
def plain(tmp_path, own_cache) -> Checkpoint:
    folder = write_model(tmp_path / "model")
    return prepare(PrepareTask(model=parse_model(str(folder)), method="fp16", device="cpu"), lambda _: None)


def test_a_wrong_token_is_a_bug_and_a_near_equal_one_a_tie(plain):
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
    measured = same_tokens.roundings("bf16", "cpu", plain, plain, [sequence])
    same_tokens.judge(found, measured)
    assert found[0].verdict == "bug"
    assert found[0].gap_in_errors > 10
    measured[0].exact_V = None
    for in_errors, verdict in ((1.9, "tie"), (2.1, "bug")):
        found[0].chosen_gap = in_errors * measured[0].error
        same_tokens.judge(found, measured)
        assert found[0].verdict == verdict


@pytest.mark.parametrize(("error", "verdict"), [(0.02, "bug"), (0.04, "tie")])
def test_gaps_are_taken_from_float32_logits_where_the_method_has_them_and_else_stay(error, verdict):
    """In bfloat16 the two tokens' logits are equal, which says nothing of how far apart they are."""
    exact_V = torch.tensor([0.0, 20.05, 19.99, 1.0])
    case = same_tokens.Divergence(0, 0, 0, transformers_token=1, engine_token=2)
    case.measure_gaps(exact_V.bfloat16())
    same_tokens.judge([case], [same_tokens.Rounding(error, None)])
    assert (case.top_two_gap, case.chosen_gap, case.gaps_in, case.verdict) == (0.0, 0.0, "bfloat16", "tie")
    same_tokens.judge([case], [same_tokens.Rounding(error, exact_V)])
    assert case.top_two_gap == case.chosen_gap == pytest.approx(0.06, abs=1e-5)
    assert (case.gaps_in, case.verdict) == ("float32", verdict)


@pytest.mark.parametrize("own", [None, 0.3, 30.0])
def test_the_methods_own_error_is_told_and_excuses_nothing(own):
    """A gap of 1 is ten rounding errors."""
    case = same_tokens.Divergence(0, 0, 3, transformers_token=1, engine_token=2, chosen_gap=1.0)
    same_tokens.judge([case], [same_tokens.Rounding(0.1, None, own)])
    assert (case.verdict, case.own_error) == ("bug", own)


def test_the_methods_own_error_is_between_its_steps_and_its_reading(plain):
    reference = same_tokens.load("transformers", plain, "bf16", "cpu")
    prompt, output = [3, 100, 7], [50, 500, 9, 80]
    at_once = reference.logits([*prompt, *output], 4)
    added = torch.tensor([[0.0], [1.0], [2.0], [0.0]])
    reference.forced_logits = lambda prompt, forced: at_once + added
    found = [same_tokens.own_error(reference, prompt, output, position) for position in range(4)]
    assert found == pytest.approx([0.5, 1, 2, 0.5], rel=0.05)


@pytest.mark.parametrize("method", ["bf16", "bnb-nf4", "int8-wo", "bnb-int8"])
def test_the_exact_logits_are_the_methods_own_or_there_are_none(plain, method, monkeypatch):
    loaded = []
    load = same_tokens.load
    monkeypatch.setattr(same_tokens, "load", lambda *what: loaded.append(what[2]) or load(*what))
    sequence = [3, 100, 7, 50, 500]
    (measured,) = same_tokens.roundings(method, "cpu", plain, plain, [sequence])
    assert (measured.exact_V is None) == (method == "bnb-int8")
    assert loaded == ["bf16" if method == "bnb-int8" else method] * 2
    if method == "bnb-int8":
        return
    assert measured.exact_V.dtype == torch.float32
    stored = load("transformers", plain, method, "cpu").logits([*sequence, 0], 1)[0]
    assert measured.error == pytest.approx(float((stored - measured.exact_V).square().mean().sqrt()))


@pytest.mark.parametrize("tied", [True, False])
def test_int8_weights_are_multiplied_in_float32_by_the_stored_numbers(tmp_path, own_cache, tied):
    """Against a float32 model of the weights that these numbers mean: not even the embedding rounds."""
    folder = write_model(tmp_path / "model", tiny(tied_embeddings=tied))
    checkpoint = prepare(PrepareTask(model=parse_model(str(folder)), method="int8-wo", device="cpu"), lambda _: None)
    sequence = [3, 100, 7, 50, 500]
    (measured,) = same_tokens.roundings("int8-wo", "cpu", checkpoint, checkpoint, [sequence])
    meant = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.bfloat16).eval().float()
    small = same_tokens.load("transformers", checkpoint, "int8-wo", "cpu")._model
    replaced = 0
    with torch.inference_mode():
        for name, module in small.named_modules():
            if isinstance(module, Int8RowsLinear | Int8RowsEmbedding):
                meant.get_submodule(name).weight.copy_(dequantize(module.q_OI, module.scale_O))
                replaced += 1
        expected = meant(torch.tensor([sequence])).logits[0, -1]
    assert replaced == 2 * 7 + 1 + tied
    assert float((measured.exact_V - expected).norm() / expected.norm()) < 1e-5
    assert measured.error > 1e-3 * float(expected.square().mean().sqrt())


@pytest.mark.parametrize("method", ["bnb-nf4", "bnb-int8", "int8-wo"])
def test_rounding_is_small_beside_quantization(plain, method):
    """The float32 run of NF4 is of the NF4 model: against the unquantized one the difference would be far greater."""
    reference = same_tokens.load("transformers", plain, method, "cpu")
    sequence = same_tokens.prompts(reference, 1, 1)[0][0]
    error = same_tokens.roundings(method, "cpu", plain, plain, [sequence])[0].error
    unquantized = same_tokens.load("transformers", plain, "bf16", "cpu")
    difference = reference.logits([*sequence, 0], 1) - unquantized.logits([*sequence, 0], 1)
    quantization = float(difference.square().mean().sqrt())
    assert 0 < error < quantization / 2


def test_the_control_is_what_the_reference_reads_and_it_repeats(plain, monkeypatch):
    reference = same_tokens.load("transformers", plain, "bf16", "cpu")
    batches = same_tokens.prompts(reference, 2, 2)
    expected = [reference.generate(batch, 6, None) for batch in batches]
    got = same_tokens.read_at_once(reference, batches, expected)
    assert [[len(row) for row in batch] for batch in got] == [[6, 6], [6, 6]]
    prompt, output = batches[1][1], expected[1][1]
    for position in range(6):
        stepwise = reference.logits([*prompt, *output[: position + 1]], 1)[0].float()
        assert float(stepwise.max() - stepwise[got[1][1][position]]) < 0.05
    assert same_tokens.reading_repeats(reference, [*prompt, *output])
    logits = reference.logits
    monkeypatch.setattr(reference, "logits", lambda *what: logits(*what) + torch.rand(1))
    assert not same_tokens.reading_repeats(reference, [*prompt, *output])


@pytest.mark.parametrize(
    ("equal", "repeats", "bugs", "right"),
    [(True, True, 0, True), (None, True, 0, True), (False, True, 0, False), (False, False, 0, True),
     (True, True, 1, False), (False, False, 1, False)],
)  # fmt: skip
def test_captured_tokens_must_be_equal_where_the_kernels_repeat_and_no_control_excuses_a_bug(
    equal, repeats, bugs, right
):
    made = {"graphed_equals_stepped": equal, "reading_repeats": repeats, "engines": [{"bugs": 0}, {"bugs": bugs}]}
    assert same_tokens.is_right(made | {"control": {"bugs": 1}}) is right


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script on a tiny model, graphed's step beside transformers'; writes o.json."""
    write_model(folder / "model")
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "model"), "--engine", "graphed", "--out", str(folder / "o.json"),
         *arguments],
        env=os.environ | {"BITBENCH_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_writes_counts_of_each_engine(tmp_path):
    done = command(tmp_path, "--method", "bf16", "--prompts", "4", "--new-tokens", "8")
    made = json.loads((tmp_path / "o.json").read_text())
    rows = [(method["method"], row) for method in made["methods"] for row in method["engines"]]
    assert [name for name, _ in rows] == ["bf16"]
    for _, row in rows:
        assert row["status"] == "ok"
        assert row["sequences"] == 4
        assert row["second_time_equal"]
        assert row["ties"] + row["bugs"] == len(row["divergences"]) == 4 - row["sequences_equal"]
        counts = f'{{"captured": false, "status": "ok", "sequences": 4, "sequences_equal": {row["sequences_equal"]}'
        assert f"bf16 graphed {counts}" in done.stdout
    for method in made["methods"]:
        assert method["reading_repeats"]
        assert method["control"]["sequences"] == 4
        assert "bugs" in method["control"]
    assert done.returncode == (1 if any(row["bugs"] for _, row in rows) else 0), done.stderr


def test_what_was_compared_is_kept_when_another_method_fails(tmp_path):
    methods = ("--method", "no-such", "--method", "bf16", "--jobs", "2")
    done = command(tmp_path, *methods, "--prompts", "1", "--new-tokens", "4")
    assert [made["method"] for made in json.loads((tmp_path / "o.json").read_text())["methods"]] == ["bf16"]
    assert done.returncode == 1
    assert "no-such: " in done.stderr
