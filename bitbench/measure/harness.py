"""Hands a cell over to lm-evaluation-harness (`pip install 'bitbench[tasks]'`): its scores, document by document."""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from bitbench.engines.base import LoadedModel
from bitbench.facts.errors import LoadError
from bitbench.facts.messages import HarnessTasks, Progress
from bitbench.facts.quality import TaskScores

# What a library raises for an unknown name, data that is not here or not what the task expects.
_FAILURES = (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError)


def load_tasks(asked: HarnessTasks) -> Any:
    """The harness's task manager, once every task is there with its data. Raises LoadError in one line."""
    from lm_eval.tasks import TaskManager

    try:
        manager = TaskManager(include_path=asked.folder)
        manager.load(list(asked.names))
    except _FAILURES as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LoadError(f"lm-evaluation-harness cannot load {', '.join(asked.names)}: {first}") from error
    return manager


def score(
    model: LoadedModel, asked: HarnessTasks, manager: Any, report: Callable[[Progress], None]
) -> tuple[TaskScores, ...]:
    """All tasks. Raises LoadError for a model without a tokenizer, OutOfMemory."""
    import lm_eval

    from bitbench.measure.harness_model import HarnessModel

    tokenizer = model.tokenizer()
    if tokenizer is None:
        raise LoadError("tasks are text, and this model has no tokenizer")
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        report(Progress(stage="tasks", detail=f"{', '.join(asked.names)}: {done} requests"))

    results = lm_eval.simple_evaluate(
        model=HarnessModel(model, tokenizer, one_more),
        tasks=list(asked.names),
        task_manager=manager,
        limit=asked.limit,
        bootstrap_iters=0,
        log_samples=True,
    )
    return tuple(found for task in results["samples"] for found in _scores(results, task, lm_eval.__version__))


def _scores(results: dict[str, Any], task: str, version: str) -> Iterator[TaskScores]:
    """One for each metric and filter that gives a number a document."""
    by_filter: dict[str, list[dict[str, Any]]] = {}
    for sample in sorted(results["samples"][task], key=lambda s: int(s["doc_id"])):
        by_filter.setdefault(str(sample.get("filter", "none")), []).append(sample)
    for name, samples in by_filter.items():
        documents = hashlib.sha256("".join(str(s["doc_hash"]) for s in samples).encode()).hexdigest()
        for metric in samples[0].get("metrics", ()):
            values = [float(v) for s in samples if isinstance(v := s.get(metric), int | float) and math.isfinite(v)]
            if len(values) < len(samples):
                continue  # such as pairs that only mean something summed up
            yield TaskScores(
                task=task,
                task_version=str(results["versions"].get(task, "")),
                lm_eval=version,
                metric=metric if name == "none" else f"{metric}, {name}",
                num_fewshot=int(results["n-shot"].get(task) or 0),
                documents_hash=documents,
                scores=tuple(values),
            )
