"""lm-evaluation-harness on local data through our engines: its scores are those of an independent computation."""

import json

import pytest
import torch

from bitbench.engines.transformers import TransformersEngine
from bitbench.facts.errors import LoadError
from bitbench.facts.messages import HarnessTasks
from bitbench.measure import harness
from bitbench.methods.registry import parse_method, reference_method

pytest.importorskip("lm_eval", reason="the extra `tasks`")

CAPITALS = {"France": "Paris", "Germany": "Berlin", "Japan": "Tokyo", "Canada": "Ottawa", "Norway": "Oslo"}
TASK = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: multiple_choice
doc_to_text: "Question: What is the capital of {{{{country}}}}?\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 2.0
"""
GENERATED = """
task: echo
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: generate_until
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs:
  until: ["\\n", "."]
  max_gen_toks: 8
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
metadata:
  version: 1.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tasks")
    names = list(CAPITALS.values())
    rows = [
        {"country": country, "choices": [names[(i + 1) % 5], capital, names[(i + 2) % 5]], "answer": 1}
        for i, (country, capital) in enumerate(CAPITALS.items())
    ]
    (made / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made / "capitals.yaml").write_text(TASK.format(data=made / "data.jsonl"))
    (made / "echo.yaml").write_text(GENERATED.format(data=made / "data.jsonl"))
    return made, rows


@pytest.fixture(scope="module")
def model(demo_checkpoint):
    return TransformersEngine().load(demo_checkpoint, reference_method("cpu"), "cpu", False)


def test_scores_are_those_of_plain_transformers(folder, model):
    made, rows = folder
    asked = HarnessTasks(names=("capitals", "echo"), folder=str(made))
    told, manager = [], harness.load_tasks(asked)  # which reads the thousands of files of all tasks
    choice, generated = harness.score(model, asked, manager, told.append)
    assert (choice.task, choice.metric, choice.task_version, choice.num_fewshot) == ("capitals", "acc", "2.0", 0)
    assert (generated.task, generated.metric.split(",")[0]) == ("echo", "exact_match")
    assert choice.scores == tuple(float(best(model, row) == row["answer"]) for row in rows)
    assert sum(choice.scores) >= 3, "a trained model knows capitals"
    assert len(generated.scores) == 5 and set(generated.scores) <= {0.0, 1.0}
    assert len(told) == 3 * 5 + 5
    again = harness.score(model, asked.model_copy(update={"limit": 2}), manager, told.append)[0]
    assert again.scores == choice.scores[:2] and again.documents_hash != choice.documents_hash


def best(model, row):
    """The choice with the greatest likelihood, by a loop over transformers' own logits."""
    tokenizer, totals = model.tokenizer(), []
    prompt = f"Question: What is the capital of {row['country']}?\nAnswer:"
    for choice in row["choices"]:
        ids, start = tokenizer(f"{prompt} {choice}")["input_ids"], len(tokenizer(prompt)["input_ids"])
        with torch.inference_mode():
            log_p = model._model(torch.tensor([ids])).logits[0].log_softmax(-1)
        totals.append(sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids))))
    return totals.index(max(totals))


def test_a_task_that_is_not_there_is_one_clear_line(folder):
    made, _ = folder
    with pytest.raises(LoadError, match="cannot load nonsense: ") as told:
        harness.load_tasks(HarnessTasks(names=("nonsense",), folder=str(made)))
    assert "\n" not in str(told.value)


def test_without_a_tokenizer_there_is_no_text_to_ask_about(folder, tmp_path):
    from tests.engines.tiny import checkpoint, write_tiny

    plain = TransformersEngine().load(checkpoint(write_tiny(tmp_path / "t")), parse_method("bf16"), "cpu", False)
    with pytest.raises(LoadError, match="no tokenizer"):
        harness.score(plain, HarnessTasks(names=("capitals",), folder=str(folder[0])), None, lambda _: None)
