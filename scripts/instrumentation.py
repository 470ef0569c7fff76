"""What measuring costs: the same generation with bitbench's instruments and without, paired and interleaved.

One process generates with transformers, token after token, in windows of some tokens. In every pair of neighbouring
windows one, chosen at random, is instrumented: each token is copied to the host and its time taken, and another process
looks at the device as a run's does, first when the window begins. So a window has one look at least, more than a run's
share of two a second. Windows are short because a shared host changes its speed for seconds at a time, which falls out
only between neighbours. Prints one JSON line: the Hodges-Lehmann estimate of log(with / without) over pairs (the
median of their pairwise means, which single disturbances hardly move) and its 95% interval by Wilcoxon's signed ranks.

    python scripts/instrumentation.py shape:qwen2.5-0.5b --device cuda:0
"""

import argparse
import json
import math
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from typing import Any

from bitbench.facts.messages import PrepareTask
from bitbench.facts.models import parse_model
from bitbench.facts.workloads import parse_workload
from bitbench.measure.power import LOOK_PERIOD_S
from bitbench.measure.power_sources import source_of
from bitbench.results.machine import collect

PROMPT = parse_workload("p40-n64")
_NORMAL_QUANTILE = 1.96  # of 0.975


class Windows:
    """Hears of every token as a logits processor, which changes nothing; gathers seconds of windows, in pairs."""

    def __init__(self, watching: Any, size: int) -> None:
        self._watching, self._size = watching, size
        self._order = random.Random(1)
        self.pairs: list[dict[bool, float]] = []
        self.restart()

    def restart(self) -> None:
        """Before a generation: what is unfinished is forgotten, and so is the first window, which has the prompt."""
        self._tokens, self._began, self._plan = -self._size, 0.0, []
        self._found: dict[bool, float] = {}
        self._instrumented = False
        self._ticks: list[float] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """One more token."""
        if self._instrumented:
            input_ids[:, -1].cpu()
            self._ticks.append(time.monotonic())
        self._tokens += 1
        if self._tokens % self._size == 0 and self._tokens >= 0:
            self._turn()
        return scores

    def _turn(self) -> None:
        now = time.monotonic()
        if self._tokens:
            self._found[self._instrumented] = now - self._began
        if len(self._found) == 2:
            self.pairs.append(self._found)
            self._found = {}
        if not self._plan:
            self._plan = self._order.sample([True, False], 2)
        self._instrumented = self._plan.pop()
        (self._watching.set if self._instrumented else self._watching.clear)()
        self._began = time.monotonic()


def worker(arguments: argparse.Namespace, watching: Any, pipe: Connection) -> None:
    """Generate again and again, then send the pairs."""
    from bitbench.engines.hf_generate import generate
    from bitbench.engines.registry import engine
    from bitbench.methods.checkpoint import prepare
    from bitbench.methods.registry import parse_method

    task = PrepareTask(model=parse_model(arguments.model), method=arguments.method, device=arguments.device)
    checkpoint = prepare(task, lambda _: None)
    model: Any = engine("transformers").load(checkpoint, parse_method(arguments.method), arguments.device, False)
    ids, windows = PROMPT.token_ids(0, model.vocab_size()), Windows(watching, arguments.window)
    pipe.send("ready")
    generate(model._model, ids, arguments.output_len, None, processors=[windows])  # meets every context length
    windows.pairs.clear()
    ends = time.monotonic() + arguments.seconds
    while time.monotonic() < ends:
        windows.restart()
        generate(model._model, ids, arguments.output_len, None, processors=[windows])
        watching.clear()
    pipe.send([(pair[True], pair[False]) for pair in windows.pairs])


def watch(device: str, watching: Any, pipe: Connection) -> list[tuple[float, float]]:
    """Look at the device while `watching` is set, until the worker sends seconds of windows, with and without."""
    source = source_of(device)
    while not pipe.poll():
        if not watching.wait(0.1):
            continue
        source.look()
        next_s = time.monotonic() + LOOK_PERIOD_S
        while watching.is_set() and time.monotonic() < next_s:
            time.sleep(0.001)
    found: list[tuple[float, float]] = pipe.recv()
    return found


def signed_rank_interval(values: list[float]) -> tuple[float, float, float]:
    """Hodges-Lehmann estimate and 95% interval, low and high: order statistics of the pairwise means.

    Hollander and Wolfe, Nonparametric Statistical Methods, section 3.3: the large-sample rank is
    n(n+1)/4 - 1.96 sqrt(n(n+1)(2n+1)/24).
    """
    n = len(values)
    means = sorted((values[i] + values[j]) / 2 for i in range(n) for j in range(i, n))
    rank = max(0, math.floor(n * (n + 1) / 4 - _NORMAL_QUANTILE * math.sqrt(n * (n + 1) * (2 * n + 1) / 24)))
    return means[len(means) // 2], means[rank], means[-1 - rank]


def main() -> None:
    """Run the pairs, print what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", default="fp16")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to go on taking pairs")
    parser.add_argument("--window", type=int, default=16, help="tokens")
    parser.add_argument("--output-len", type=int, default=273, help="tokens of a generation")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    watching = context.Event()
    pipe, other = context.Pipe()
    process = context.Process(target=worker, args=(arguments, watching, other))
    process.start()
    other.close()
    assert pipe.recv() == "ready"
    pairs = watch(arguments.device, watching, pipe)
    process.join()
    logs = [math.log(on / off) for on, off in pairs]
    estimate, low, high = signed_rank_interval(logs)
    environment = collect(arguments.device)
    result = {
        **vars(arguments),
        "seconds_of_windows": sum(on + off for on, off in pairs),
        "device_name": environment.device_name,
        "versions": environment.versions,
        "num_pairs": len(logs),
        "relative_difference": math.expm1(estimate),
        "interval_95": [math.expm1(low), math.expm1(high)],
        "log_ratios": [round(value, 5) for value in logs],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
