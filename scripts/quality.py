"""Quality of methods on one model beside its 16-bit reference, as a table: `scripts/quality.py [MODEL] [METHOD ...]`.

Each method passes the numerics gate first. With OUT=FILE in the environment, the raw figures go there, a JSON line
each.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from itertools import combinations

from bitbench.engines.base import LoadedModel
from bitbench.engines.registry import engine
from bitbench.facts.corpora import built_in
from bitbench.facts.messages import PrepareTask, Progress
from bitbench.facts.models import parse_model
from bitbench.facts.quality import Quality
from bitbench.measure import numerics, quality
from bitbench.measure.gaps import IncorrectOutput
from bitbench.methods.checkpoint import prepare
from bitbench.methods.registry import parse_method
from bitbench.results import quality_stats as stats

SEED = 1


def load(model: str, method: str, device: str) -> LoadedModel:
    """By eager transformers."""
    choice = parse_method(method)
    quiet: Callable[[Progress], None] = lambda _: None  # noqa: E731
    task = PrepareTask(model=parse_model(model), method=choice.method.name, device=device)
    return engine("transformers").load(prepare(task, quiet), choice, device, False)


def rows(method: str, found: Quality) -> None:
    """A line for each pass, one for the numerics."""
    for one in found.passes:
        kl, mean, ratio, top1 = (
            stats.kl(one),
            stats.mean_kl(one),
            stats.perplexity_ratio(one),
            stats.top1_agreement(one),
        )
        perplexity, of_cell = stats.perplexities(one)
        cells = (
            method,
            f"{one.corpus}, {one.path}",
            one.num_positions,
            f"{mean.value:.4f} ({mean.low:.4f}-{mean.high:.4f})",
            f"{kl.median:.4f}",
            f"{kl.p99:.3f}",
            f"{kl.max:.2f}",
            f"{top1.value:.3f}",
            f"{stats.top5_overlap(one).value:.3f}",
            f"{perplexity:.2f}",
            f"{of_cell:.2f}",
            f"{ratio.value:.3f} ({ratio.low:.3f}-{ratio.high:.3f})",
            f"{one.context_free_kl_nats:.2f}",
        )
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    print(f"{method}: numerics {found.numerics}; answers {[c.num_identical for c in found.continuations]}", flush=True)


def main(model: str, methods: list[str]) -> None:
    """Print what was found, then which methods can be told apart."""
    import torch

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    reference = load(model, "bf16" if device == "cpu" else "fp16", device)
    results: dict[str, Quality] = {}
    for method in methods:
        cell = load(model, method, device)
        ids = cell.encode("What is the capital of France?") or list(range(100, 120))
        ids = [*ids, *cell.generate([ids], 16, None)[0]]
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            checked = numerics.check(cell, ids, 16, SEED)
            gate_s = time.monotonic() - began
            found = quality.measure(reference, cell, built_in(), quality.amount(device), lambda _: None)
            quality.check_broken(found)
        except IncorrectOutput as error:
            print(f"{method}: incorrect: {error}")
            continue
        wall_s = time.monotonic() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        results[method] = found.model_copy(update={"numerics": checked})
        rows(method, results[method])
        print(f"{method}: {gate_s:.0f} s numerics, {wall_s - gate_s:.0f} s quality, peak grew by {peak / 1024:.0f} MiB")
        if file := os.environ.get("OUT"):
            with open(file, "a", encoding="utf-8") as out:
                out.write(results[method].model_dump_json() + "\n")
    for a, b in combinations(results, 2):
        for first, second in zip(results[a].passes, results[b].passes, strict=True):
            verdict = stats.compare_kl(first, second).verdict
            print(f"KL on {first.corpus} ({first.path}): {a} {verdict} ({b})")


if __name__ == "__main__":
    given = sys.argv[1:] or ["demo"]
    main(given[0], given[1:] or ["fp16", "bnb-int8", "bnb-nf4", "awq-int4"])
