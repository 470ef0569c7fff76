"""What AWQ's calibration text is worth: `scripts/calibration.py NAME ...`. One NAME a process (gptqmodel keeps state).

Quantizes the demo with another calibration, then compares it with the 16-bit weights in float32 on three texts read at
once: bitbench's quality text (half of the shipped calibration is other paragraphs of the same documentation), the
Apache licence, and the model's own greedy answers. Methods without calibration are compared alone. A line of JSON for
each is added to OUT (environment; default results/calibration-demo.jsonl).
"""

import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bitbench.engines.base import LoadedModel
from bitbench.engines.transformers import TransformersEngine
from bitbench.facts.corpora import built_in
from bitbench.facts.messages import Checkpoint, PrepareTask
from bitbench.facts.models import parse_model
from bitbench.facts.workloads import starting_prompts
from bitbench.measure.divergence import Divergence, divergence
from bitbench.methods import awq, calibration
from bitbench.methods.checkpoint import prepare
from bitbench.methods.registry import parse_method, reference_method

ROOT = Path(__file__).resolve().parent.parent
WINDOW, TOKENS, BLOCKS, ANSWER_LEN = 256, 128, 16, 64
Ids = list[list[int]]


def rows(kind: str = "") -> list[dict[str, str]]:
    """The shipped calibration's documents, of one kind."""
    return [row for row in json.loads(calibration._text()) if not kind or kind in row]


def cut(tokenizer: Any, documents: list[dict[str, str]], tokens: int) -> Ids:
    """Each document's first tokens."""
    return [calibration._cut(tokenizer, calibration._render(row, tokenizer), tokens) for row in documents]


def packed(documents: Ids, length: int, num: int) -> Ids:
    """Equal blocks of documents one after another."""
    flat = [token for document in documents for token in document]
    return [flat[i : i + length] for i in range(0, len(flat) - length + 1, length)][:num]


def sampled(tokenizer: Any, num: int) -> Ids:
    """The model's own text from its first token, temperature 1."""
    import torch
    import transformers

    torch.manual_seed(1)
    path = prepare(PrepareTask(model=parse_model("demo"), method="fp16", device="cpu"), lambda _: None).path
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    start, found = torch.tensor([[tokenizer.bos_token_id]]), []
    for _ in range(num):
        new = model.generate(
            start, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=TOKENS - 1,
            min_new_tokens=TOKENS - 1, pad_token_id=0, eos_token_id=None, repetition_penalty=1.0,
        )  # fmt: skip
        found.append(new[0].tolist())
    return found


def noise(tokenizer: Any) -> Ids:
    """Random tokens."""
    draws = random.Random(1)
    return [[draws.randrange(len(tokenizer)) for _ in range(TOKENS)] for _ in range(BLOCKS)]


CALIBRATIONS: dict[str, Callable[[Any], Ids]] = {
    "shipped": lambda t: calibration.token_ids(t, calibration.CPU_AMOUNT),
    "shipped, twice as much": lambda t: packed(cut(t, rows(), TOKENS), TOKENS, 2 * BLOCKS),
    "documentation only": lambda t: packed(cut(t, rows("text")[:BLOCKS], TOKENS), TOKENS, BLOCKS),
    "chats only": lambda t: packed(cut(t, rows("question"), 160), TOKENS, BLOCKS),
    # 15 of 128 tokens and one of 121: gptqmodel calibrates on the last alone.
    "chats only, one of them shorter": lambda t: cut(t, rows("question")[:BLOCKS], TOKENS),
    "own samples": lambda t: sampled(t, BLOCKS),
    "own samples and shipped": lambda t: sampled(t, BLOCKS // 2) + packed(cut(t, rows(), TOKENS), TOKENS, BLOCKS // 2),
    "random tokens": noise,
}
METHODS = {"round to nearest": "rtn-int4", "NF4": "bnb-nf4", "BF16": "bf16", "LLM.int8()": "bnb-int8"}


def quantized(name: str, source: Checkpoint, folder: Path) -> Checkpoint:
    """AWQ with that calibration."""
    calibration.token_ids = lambda tokenizer, used: CALIBRATIONS[name](tokenizer)  # type: ignore[assignment]
    awq.quantize(source, group_size=64, num_layers=30, device="cpu", folder=folder, progress=lambda _: None)
    return Checkpoint(path=str(folder), content_hash="", origin=name, has_tokenizer=True, group_size=64)


def texts(reference: LoadedModel, tokenizer: Any) -> Iterator[tuple[str, list[tuple[list[int], int]]]]:
    """(name, ids and how many of the last are compared)."""
    documents = [tokenizer(d, add_special_tokens=False)["input_ids"][:WINDOW] for d in built_in().documents[:16]]
    yield "bitbench-quality-1", [(ids, len(ids) - 1) for ids in documents]
    licence = tokenizer((ROOT / "LICENSE").read_text(), add_special_tokens=False)["input_ids"]
    yield "Apache licence", [(licence[i : i + WINDOW], WINDOW - 1) for i in range(0, 8 * WINDOW, WINDOW)]
    answers = []
    for prompt in starting_prompts():
        ids = reference.encode(prompt.text) or []
        answers.append(([*ids, *reference.generate([ids], ANSWER_LEN, None)[0]], ANSWER_LEN))
    yield "own answers", answers


def compared(reference: LoadedModel, cell: LoadedModel, read: list[tuple[list[int], int]]) -> dict[str, float]:
    """Over all positions of a text."""
    found = Divergence()
    for ids, num in read:
        found.extend(divergence(reference.logits(ids, num), cell.logits(ids, num), ids[-num:]))
    lost = [b - a for a, b in zip(found.nll_reference_nats, found.nll_quantized_nats, strict=True)]
    num = len(lost)
    return {
        "positions": num,
        "kl_mean": math.fsum(found.kl_nats) / num,
        "top1_agreement": sum(found.top1_agrees) / num,
        "perplexity_ratio": math.exp(math.fsum(lost) / num),
    }


def main(name: str) -> None:
    """One calibration or method."""
    engine, quiet = TransformersEngine(), lambda _: None
    source = prepare(PrepareTask(model=parse_model("demo"), method="fp16", device="cpu"), quiet)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if name in CALIBRATIONS:
            method, checkpoint = "awq-int4", quantized(name, source, Path(folder))
        else:
            method = METHODS[name]
            stored = parse_method(method).method.stored_as
            checkpoint = prepare(PrepareTask(model=parse_model("demo"), method=stored, device="cpu"), quiet)
        took_s = time.monotonic() - began
        cell = engine.load(checkpoint, parse_method(method), "cpu", False)
        reference = engine.load(source, reference_method("cpu"), "cpu", False)
        found: dict[str, Any] = {"name": name, "method": method, "making_s": round(took_s, 1), "texts": {}}
        for text, read in texts(reference, reference.tokenizer()):
            found["texts"][text] = compared(reference, cell, read)
    print(json.dumps(found), flush=True)
    with open(os.environ.get("OUT", ROOT / "results" / "calibration-demo.jsonl"), "a", encoding="utf-8") as out:
        out.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    known = {**CALIBRATIONS, **METHODS}
    if not sys.argv[1:] or set(sys.argv[1:]) - set(known):
        sys.exit(f"give one or more of: {', '.join(map(repr, known))}")
    if len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        for each in sys.argv[1:]:
            if status := os.spawnv(os.P_WAIT, sys.executable, [sys.executable, __file__, each]):
                sys.exit(status)
