"""The committed inputs are what their descriptions say.

`token_ids.json` was made by
    rng = random.Random(20241123); json.dumps([rng.randrange(1000, 48000) for _ in range(4096)], separators=(",", ":"))
`num_tokens` in `prompts.json` is the prompt's length in the demo's tokenizer under its chat template.
"""

import json
import random
from importlib.resources import files

import pytest

from bitbench.facts.models import SHAPES
from bitbench.facts.workloads import STARTING_PROMPTS, starting_prompts
from bitbench.methods import calibration


def test_token_ids_can_be_derived_again_and_suit_every_vocabulary() -> None:
    text = (files("bitbench.facts") / "data" / "token_ids.json").read_text(encoding="utf-8")
    rng = random.Random(20241123)
    assert json.loads(text) == [rng.randrange(1000, 48_000) for _ in range(4096)]
    assert text.count("\n") == 1
    assert max(json.loads(text)) < min(shape.vocab_size for shape in SHAPES.values())


def test_prompts_have_the_lengths_that_are_committed(demo_checkpoint) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint.path)
    prompts = starting_prompts()
    assert len({p.text for p in prompts}) == STARTING_PROMPTS
    for prompt in prompts:
        chat = [{"role": "user", "content": prompt.text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert len(ids) == prompt.num_tokens
        assert 20 <= len(ids) <= 60


def test_calibration_shares_no_question_with_the_measured_prompts() -> None:
    rows = json.loads((files("bitbench.methods") / "data" / "calibration-1.json").read_text(encoding="utf-8"))
    assert len(rows) == calibration.GPU_AMOUNT.documents
    assert not {row.get("question") for row in rows} & {p.text for p in starting_prompts()}


def test_calibration_cuts_and_renders_documents(demo_checkpoint) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint.path)
    documents = calibration.token_ids(tokenizer, calibration.CPU_AMOUNT)
    assert [len(document) for document in documents] == [128] * 16
    assert tokenizer.decode(documents[0]).startswith("<|im_start|>system")
    assert not tokenizer.decode(documents[1]).startswith("<|im_start|>")


@pytest.mark.parametrize("lengths", [(300, 40, 700), (5, 6, 7), (512, 512)])
def test_calibration_documents_are_equally_long_whatever_the_text(lengths, monkeypatch) -> None:
    """gptqmodel would see the last one only."""

    def tokenizer(text, add_special_tokens):
        return {"input_ids": list(range(len(text)))}

    monkeypatch.setattr(calibration, "_text", lambda: json.dumps([{"text": "a" * n} for n in lengths]))
    found = calibration.token_ids(tokenizer, calibration.Amount(48, 512))
    assert len({len(document) for document in found}) == 1
    assert sum(map(len, found)) > sum(min(n, 512) for n in lengths) - 512
