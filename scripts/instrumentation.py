"""What measuring costs: the same generation with bitbench's instruments and without, paired and interleaved.

One process generates with transformers, token after token, in windows of a few tokens; three neighbouring windows are,
in random order: plain; timed, where each token is copied to the host and its time taken; and watched, where another
process looks at the device too, as a run's does, once when the window begins. Windows are short because a shared
host changes its speed for seconds at a time, which falls out only between neighbours. A watched window has its look
more often than a run has one, so its cost is counted by the share of such windows that would have one in a run:

    log(timed / plain) + share * log(watched / timed),   share = seconds of a window / LOOK_PERIOD_S

Prints one JSON line: the Hodges-Lehmann estimate of this over threes (the median of their pairwise means, which single
disturbances hardly move) and its 95% interval by Wilcoxon's signed ranks.

    python scripts/instrumentation.py shape:qwen2.5-0.5b --device cuda:0
"""

import argparse
import json
import math
import multiprocessing
import random
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

from bitbench.facts.messages import PrepareTask
from bitbench.facts.models import parse_model
from bitbench.facts.samples import LOOK_PERIOD_S
from bitbench.facts.workloads import parse_workload
from bitbench.measure.power_sources import source_of
from bitbench.results.machine import collect

PROMPT = parse_workload("p40-n64")
_NORMAL_QUANTILE = 1.96  # of 0.975


KINDS = ("plain", "timed", "watched")
Three = dict[str, float]
"""Seconds of three neighbouring windows, by kind."""


class Windows:
    """Hears of every token as a logits processor, which changes nothing; gathers seconds of windows, in threes."""

    def __init__(self, look: Any, size: int) -> None:
        self._look, self._size = look, size
        self._order = random.Random(1)
        self.threes: list[Three] = []
        self.restart()

    def restart(self) -> None:
        """Before a generation: what is unfinished is forgotten, and so is the first window, which has the prompt."""
        self._tokens, self._began = -self._size, 0.0
        self._found: Three = {}
        self._plan: list[str] = []
        self._kind = "plain"
        self._ticks: list[float] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """One more token."""
        if self._kind != "plain":
            input_ids[:, -1].cpu()
            self._ticks.append(time.monotonic())
        self._tokens += 1
        if self._tokens % self._size == 0 and self._tokens >= 0:
            self._turn()
        return scores

    def _turn(self) -> None:
        now = time.monotonic()
        if self._tokens:
            self._found[self._kind] = now - self._began
        if len(self._found) == len(KINDS):
            self.threes.append(self._found)
            self._found = {}
        if not self._plan:
            self._plan = self._order.sample(KINDS, len(KINDS))
        self._kind = self._plan.pop()
        self._began = time.monotonic()
        if self._kind == "watched":
            self._look.set()


def worker(arguments: argparse.Namespace, look: Any, pipe: Connection) -> None:
    """Generate again and again, then send the threes."""
    from bitbench.engines.hf_generate import generate
    from bitbench.engines.registry import engine
    from bitbench.methods.checkpoint import prepare
    from bitbench.methods.registry import parse_method

    task = PrepareTask(model=parse_model(arguments.model), method=arguments.method, device=arguments.device)
    checkpoint = prepare(task, lambda _: None)
    model: Any = engine("transformers").load(checkpoint, parse_method(arguments.method), arguments.device, False)
    ids, windows = PROMPT.token_ids(0, model.vocab_size()), Windows(look, arguments.window)
    pipe.send("ready")
    generate(model._model, ids, arguments.output_len, None, processors=[windows])  # meets every context length
    windows.threes.clear()
    ends = time.monotonic() + arguments.seconds
    while time.monotonic() < ends:
        windows.restart()
        generate(model._model, ids, arguments.output_len, None, processors=[windows])
    pipe.send(windows.threes)


def watch(device: str, look: Any, pipe: Connection) -> list[Three]:
    """Look at the device each time `look` is set, until the worker sends what it found."""
    source = source_of(device)
    while not pipe.poll():
        if look.wait(0.1):
            look.clear()
            source.look()
    found: list[Three] = pipe.recv()
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
    """Take the windows, print what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", default="fp16")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to go on")
    parser.add_argument("--window", type=int, default=4, help="tokens")
    parser.add_argument("--output-len", type=int, default=257, help="tokens of a generation")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    look = context.Event()
    pipe, other = context.Pipe()
    process = context.Process(target=worker, args=(arguments, look, other))
    process.start()
    other.close()
    assert pipe.recv() == "ready"
    threes = watch(arguments.device, look, pipe)
    process.join()
    share = statistics.median(three["plain"] for three in threes) / LOOK_PERIOD_S
    timed = [math.log(three["timed"] / three["plain"]) for three in threes]
    watched = [math.log(three["watched"] / three["timed"]) for three in threes]
    costs = {"ticks": timed, "one_look_a_window": watched}
    costs["run"] = [a + share * b for a, b in zip(timed, watched, strict=True)]
    environment = collect(arguments.device)
    result: dict[str, Any] = {
        **vars(arguments),
        "device_name": environment.device_name,
        "versions": environment.versions,
        "num_threes": len(threes),
        "share_of_windows_with_a_look": share,
    }
    for name, values in costs.items():
        estimate, low, high = signed_rank_interval(values)
        result[name] = {"relative": math.expm1(estimate), "interval_95": [math.expm1(low), math.expm1(high)]}
    result["windows_s"] = [[round(three[kind], 6) for kind in KINDS] for three in threes]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
