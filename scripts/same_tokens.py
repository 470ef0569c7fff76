"""Whether other engines give the tokens of eager transformers: first divergences, and whether rounding explains them.

Loads each method under `transformers` and under each other engine, continues prompts of different lengths greedily
(short and long in turn, so that caches are used again) and compares. At the first divergence of a sequence the method's
own eager forward is asked: where the two tokens' logits and the top one lie closer together than twice the rounding
error of the 16-bit type, it is a `tie`, else a `bug`. That error is measured at that very position: the root mean
square difference of 16-bit logits from float32 ones, of the method's own model where that runs in float32 (16-bit
weights, NF4, INT8 by row), else of the unquantized one. The gaps are between float32 logits too where the method's own
model has them, so that the judge does not round: from 16 to 32 logits lie 1/64 apart in FP16 and 1/8 in BF16, and a gap
of one such step says little. Elsewhere they are between 16-bit ones; `gaps_in` says which. After a divergence the
sequences are different texts, so nothing more of them is compared.

A method that rounds activations or scales makes more of a last bit than 16-bit arithmetic does: LLM.int8() quantizes
each row to 127 steps of its largest number. How much more is told beside the verdict and changes nothing about it:
`own_error` is the root mean square difference at that position between eager transformers' steps and its reading of the
same answer at once; where both are equal to the bit, as in an answer's first tokens, the median over the answer. And
there is a control in which no other engine has a part: `control` are the tokens that eager transformers finds most
likely when it reads its own answers at once, compared and judged like an engine's. Where the control has bugs, so has
the method. `reading_repeats` says whether the same text read twice has the same logits to the bit: Marlin adds up parts
of a sum in the order in which they come. Where it does not, captured and uncaptured tokens need not be equal.

How far a bug lies beyond the limit is in `gap_in_errors`: two honest roundings pass it now and then by a little, a
wrong token by tens.

    python scripts/same_tokens.py demo --method bf16 --method bnb-nf4 --device cpu --out same-tokens.json
    python scripts/same_tokens.py shape:qwen2.5-0.5b --method fp16 --device cuda:0 --out same-tokens.json

`stepped` is the step of `graphed` without a capture. On a CPU, where nothing is captured, the two are one. `fused` has
kernels of its own, so a method's kernel under transformers is not asked of it. Nothing is timed, so several methods can
be compared at once (--jobs). The file is written after each method; one that fails leaves its reason on stderr.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitbench.engines import hf_loading
from bitbench.engines.base import LoadedModel
from bitbench.engines.graphed import GraphedModel
from bitbench.engines.hf_model import HuggingFaceModel
from bitbench.engines.registry import engine
from bitbench.facts.errors import LoadError, OutOfMemory, Unsupported
from bitbench.facts.messages import Checkpoint, PrepareTask
from bitbench.facts.models import parse_model
from bitbench.facts.workloads import Workload, starting_prompts
from bitbench.methods.checkpoint import prepare
from bitbench.methods.registry import BASELINE_METHODS, METHODS, parse_method

ENGINES = ("graphed", "stepped", "compiled", "fused")
TIE = 2.0  # in rounding errors
# What the layers of a method store can be computed with in float32 as well.
RUN_IN_FLOAT32 = (*BASELINE_METHODS, "bnb-nf4", "int8-wo")
TOKEN_LENS = (60, 17, 130, 33, 90, 25)

Batch = list[list[int]]


@dataclass(slots=True)
class Divergence:
    """The first token in which a sequence differs; `position` counts output tokens. Gaps and error are in logits.

    `chosen_gap` is from the top logit down to the lower one of the two tokens; `top_two_gap` asks of no tokens.
    `gaps_in` is the type of the logits that both are taken from.
    """

    prompt: int
    row: int
    position: int
    transformers_token: int
    engine_token: int
    top_two_gap: float = math.nan
    chosen_gap: float = math.nan
    gaps_in: str = ""
    rounding_error: float | None = None
    own_error: float | None = None
    gap_in_errors: float | None = None
    verdict: str = ""

    def measure_gaps(self, logits_V: Any) -> None:
        """By these logits of its position, [vocab], in place of any before."""
        top, second = logits_V.topk(2).values.tolist()
        lower = min(float(logits_V[self.transformers_token]), float(logits_V[self.engine_token]))
        self.top_two_gap, self.chosen_gap = top - second, top - lower
        self.gaps_in = str(logits_V.dtype).removeprefix("torch.")


@dataclass(slots=True)
class Rounding:
    """What 16 bits do to the logits after one sequence.

    `error` is the RMS over the vocabulary of 16-bit minus float32 logits; `exact_V` are the float32 ones, [vocab],
    where they are of the method's own model, and else `own_error` is that model's, which see.
    """

    error: float
    exact_V: Any | None
    own_error: float | None = None


def prompts(model: LoadedModel, num: int, batch_size: int) -> list[Batch]:
    """Batches of ids, short and long in turn: texts where the model has a tokenizer, else committed ids."""
    texts = [prompt.text for prompt in starting_prompts()]
    if batch_size == 1 and model.encode(texts[0]) is not None:
        longer = [texts[i] if i % 2 == 0 else " ".join(texts[i : i + 3]) for i in range(num)]
        return [[model.encode(text) or []] for text in longer]
    lens = [TOKEN_LENS[i % len(TOKEN_LENS)] + i // len(TOKEN_LENS) for i in range(num)]
    return [
        Workload(num, 1, prompt_len=length, batch_size=batch_size).token_ids(i, model.vocab_size())
        for i, length in enumerate(lens)
    ]


def load(name: str, checkpoint: Checkpoint, method: str, device: str) -> LoadedModel:
    """A model under an engine. Raises LoadError, OutOfMemory or Unsupported."""
    choice = parse_method(method.partition(":")[0] if name == "fused" else method)
    if name == "stepped" or (name == "graphed" and device == "cpu"):
        model, tokenizer = hf_loading.load(checkpoint, choice, device, False)
        return GraphedModel(model, tokenizer, device, captured=False)
    answer = engine(name).supports(choice, device)
    if not answer.ok:
        raise Unsupported(answer.reason)
    return engine(name).load(checkpoint, choice, device, False)


def first_divergence(
    reference: LoadedModel, where: tuple[int, int], prompt: list[int], expected: list[int], got: list[int]
) -> Divergence | None:
    """Where two outputs of one prompt part, with the gaps by the reference's own forward; None if they don't."""
    position = next((i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b), None)
    if position is None:
        return None
    divergence = Divergence(*where, position, expected[position], got[position])
    divergence.measure_gaps(reference.logits([*prompt, *expected[: position + 1]], 1)[0])
    return divergence


def compare(
    reference: LoadedModel, batches: Sequence[Batch], expected: Sequence[Batch], got: Sequence[Batch]
) -> tuple[dict[str, Any], list[Divergence]]:
    """Counts of one engine's outputs against the reference's, and the divergences still to be judged."""
    found = []
    compared = equal = sequences = 0
    for index, (batch, wanted, made) in enumerate(zip(batches, expected, got, strict=True)):
        for row, prompt in enumerate(batch):
            divergence = first_divergence(reference, (index, row), prompt, wanted[row], made[row])
            same = len(wanted[row]) if divergence is None else divergence.position
            sequences, equal, compared = sequences + 1, equal + same, compared + same + (divergence is not None)
            found += [divergence] if divergence else []
    counts = {"sequences": sequences, "sequences_equal": sequences - len(found)}
    return counts | {"tokens_compared": compared, "tokens_equal": equal}, found


def read_at_once(reference: LoadedModel, batches: Sequence[Batch], expected: Sequence[Batch]) -> list[Batch]:
    """For each token of each answer what the reference finds most likely there when it reads the answer at once."""
    return [
        [
            reference.logits([*prompt, *output], len(output)).argmax(dim=-1).tolist()
            for prompt, output in zip(batch, made, strict=True)
        ]
        for batch, made in zip(batches, expected, strict=True)
    ]


def reading_differences(reference: LoadedModel, ids: list[int], num_last: int) -> list[float]:
    """RMS over the logits from which each of the last ids would be chosen, of three readings from a first: 0 where they
    are equal to the bit.
    """
    first, *others = (reference.logits(ids, num_last).float() for _ in range(4))
    return [float((first - other).square().mean().sqrt()) for other in others]


def reading_repeats(reference: LoadedModel, ids: list[int]) -> bool:
    """Whether all logits of a text are the same to the bit in four readings."""
    return not any(reading_differences(reference, ids, len(ids) - 1))


def roundings(
    method: str, device: str, own: Checkpoint, plain: Checkpoint, sequences: Sequence[list[int]]
) -> list[Rounding]:
    """One for each sequence, from 16-bit and float32 logits of one model.

    The same stored numbers are computed with in float32: those of the method where its layers can do that, else the
    unquantized ones in the method's 16-bit type.
    """
    its_own = method in RUN_IN_FLOAT32
    if not its_own:
        method, own = ("bf16" if device == "cpu" else "fp16"), plain  # as hf_loading chooses for quantized methods
    rounded, exact = (load("transformers", own, method, device) for _ in range(2))
    to_float32(exact)
    found = []
    for ids in sequences:
        rounded_V, exact_V = (model.logits([*ids, 0], 1)[0] for model in (rounded, exact))  # the last id is not read
        error = float((rounded_V - exact_V).square().mean().sqrt())
        found.append(Rounding(error, exact_V.cpu() if its_own else None))
    return found


def own_error(reference: LoadedModel, prompt: list[int], output: list[int], position: int) -> float:
    """RMS over the vocabulary between the method's logits for that token of an answer by steps and by reading it at
    once; the median over its tokens where the two are equal to the bit.
    """
    at_once_NV = reference.logits([*prompt, *output], len(output)).float()
    stepped_NV = reference.forced_logits(prompt, output).float().to(at_once_NV.device)
    errors = (at_once_NV - stepped_NV).square().mean(dim=1).sqrt().tolist()
    return errors[position] or statistics.median(errors)


def to_float32(loaded: LoadedModel) -> None:
    """Compute in float32 with the numbers as they are stored: nothing is quantized or rounded anew."""
    import torch

    from bitbench.engines.int8_rows import Int8RowsEmbedding

    assert isinstance(loaded, HuggingFaceModel)
    for module in loaded._model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()
        if hasattr(module, "compute_dtype"):  # bitsandbytes' Linear4bit
            module.compute_dtype = module.weight.quant_state.dtype = torch.float32
        if isinstance(module, Int8RowsEmbedding):
            module.dtype = torch.float32


def one_method(options: argparse.Namespace, method: str) -> dict[str, Any]:
    """All engines of one method, judged."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // options.jobs))
    checkpoint, plain = (prepared(options, name) for name in (method.partition(":")[0], "fp16"))
    reference = load("transformers", checkpoint, method, options.device)
    batches = prompts(reference, options.prompts, options.batch_size)
    expected = [reference.generate(batch, options.new_tokens, None) for batch in batches]
    rows: list[dict[str, Any]] = []
    outputs: dict[str, list[Batch]] = {}
    open_cases: list[Divergence] = []
    for name in options.engine or ENGINES:
        row: dict[str, Any] = {"engine": name, "captured": name == "graphed" and options.device != "cpu"}
        try:
            outputs[name], extra = generated(name, checkpoint, method, options, batches)
        except (LoadError, OutOfMemory, Unsupported) as error:
            rows.append(row | {"status": type(error).__name__, "reason": str(error)})
            continue
        counts, found = compare(reference, batches, expected, outputs[name])
        rows.append(row | {"status": "ok"} | counts | extra | {"divergences": found})
        open_cases += found
    counts, found = compare(reference, batches, expected, read_at_once(reference, batches, expected))
    control: dict[str, Any] = {"engine": "transformers"} | counts | {"divergences": found}
    open_cases += found
    until = [[*batches[c.prompt][c.row], *expected[c.prompt][c.row][: c.position]] for c in open_cases]
    if open_cases:
        measured = roundings(method, options.device, checkpoint, plain, until)
        for rounding, case in zip(measured, open_cases, strict=True):
            if rounding.exact_V is None:
                prompt, output = (made[case.prompt][case.row] for made in (batches, expected))
                rounding.own_error = own_error(reference, prompt, output, case.position)
        judge(open_cases, measured)
    for row in (*rows, control):
        cases = row.get("divergences", [])
        row["divergences"] = [asdict(case) for case in cases]
        row["ties"], row["bugs"] = (sum(c.verdict == word for c in cases) for word in ("tie", "bug"))
    both = "graphed" in outputs and "stepped" in outputs
    return {
        "method": method,
        "dtype": reference.dtype(),
        "prompt_lens": [len(batch[0]) for batch in batches],
        "engines": rows,
        "control": control,
        "reading_repeats": reading_repeats(reference, [*batches[0][0], *expected[0][0]]),
        # The same kernels on the same numbers: here even one differing token is a bug.
        "graphed_equals_stepped": outputs["graphed"] == outputs["stepped"] if both else None,
    }


def prepared(options: argparse.Namespace, method: str) -> Checkpoint:
    """The method's checkpoint in the cache."""
    task = PrepareTask(model=parse_model(options.model), method=method, device=options.device, quantize=True)
    return prepare(task, lambda _: None)


def generated(
    name: str, checkpoint: Checkpoint, method: str, options: argparse.Namespace, batches: Sequence[Batch]
) -> tuple[list[Batch], dict[str, Any]]:
    """The outputs of one engine, twice over the same prompts, and what it says of itself.

    The uncaptured step, as slow as transformers, runs once: it is there to be compared with the captured one.
    """
    model = load(name, checkpoint, method, options.device)
    first = [model.generate(batch, options.new_tokens, None) for batch in batches]
    if name == "stepped":
        return first, {}
    compilations: Callable[[], int] | None = getattr(model, "num_compilations", None)
    before = compilations() if compilations else 0
    second = [model.generate(batch, options.new_tokens, None) for batch in batches]
    extra: dict[str, Any] = {"second_time_equal": first == second}
    if compilations:
        extra |= {"compilations": before, "compilations_second_time": compilations() - before}
    return second, extra


def judge(cases: Sequence[Divergence], measured: Sequence[Rounding]) -> None:
    """Give each divergence its rounding error, gaps without rounding where there are such, and its verdict."""
    for case, rounding in zip(cases, measured, strict=True):
        if rounding.exact_V is not None:
            case.measure_gaps(rounding.exact_V)
        case.rounding_error, case.gap_in_errors = rounding.error, case.chosen_gap / rounding.error
        case.own_error = rounding.own_error
        case.verdict = "tie" if case.gap_in_errors < TIE else "bug"  # NaN is a bug


def main() -> None:
    """Compare, write the JSON, print a line an engine; exit with 1 where there was a bug."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", action="append", help="repeat for several; fp16 if none is given")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="repeat for several; all if none is given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=6, help="batches of prompts")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=1, help="methods that are compared at once, each in a process")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    import torch
    import transformers

    asked = {key: getattr(options, key) for key in ("model", "device", "prompts", "batch_size", "new_tokens")}
    asked |= {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
    names, methods = options.method or ["fp16"], []
    for name in {"fp16", *(name.partition(":")[0] for name in names)} & set(METHODS):
        with contextlib.suppress(LoadError):  # the method's own process tells it
            prepared(options, name)  # once: it is CPUs that this takes, and each method needs the plain model too
    right = True
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, future in [(name, pool.submit(one_method, options, name)) for name in names]:
            made = told(name, future)
            methods += [made] if made else []
            right &= bool(made) and is_right(made)
            options.out.write_text(json.dumps(asked | {"methods": methods}, indent=1) + "\n")
    raise SystemExit(0 if right else 1)


def told(name: str, future: Future[dict[str, Any]]) -> dict[str, Any] | None:
    """What was found of a method, a line an engine on stdout; None, and the reason on stderr, where it failed."""
    if error := future.exception():
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    made = future.result()
    for row in (*made["engines"], made["control"]):
        counts = {key: value for key, value in row.items() if key not in ("engine", "divergences")}
        print(made["method"], row["engine"], json.dumps(counts), flush=True)
    return made


def is_right(made: dict[str, Any]) -> bool:
    """No engine of the method has a bug, and captured tokens are those of the uncaptured step if its kernels repeat."""
    same = made["graphed_equals_stepped"] is not False or not made["reading_repeats"]
    return same and not any(row["bugs"] for row in made["engines"])


if __name__ == "__main__":
    main()
