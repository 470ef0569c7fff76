"""What measuring costs: the same generation with bitbench's instruments and without, paired and interleaved.

With: a tick of the clock for each token, and a PowerWatch in another process, looking twice as often as in a run; it
looks first when it starts, so that also a short generation holds a look. Without: neither. Pairs are short because a
shared host changes its speed for seconds at a time, which falls out only between neighbours. Prints one JSON line: the
Hodges-Lehmann estimate of log(with / without) over pairs (the median of their pairwise means, which single disturbances
hardly move) and its 95% interval by Wilcoxon's signed ranks.

    python scripts/instrumentation.py shape:qwen2.5-0.5b --device cuda:0
"""

import argparse
import json
import math
import multiprocessing
import random
import time
from multiprocessing.connection import Connection

from bitbench.facts.messages import PrepareTask
from bitbench.facts.models import parse_model
from bitbench.facts.workloads import parse_workload
from bitbench.measure.power import LOOK_PERIOD_S, PowerWatch
from bitbench.results.machine import collect

PROMPT = parse_workload("p40-n64")
_NORMAL_QUANTILE = 1.96  # of 0.975
_LOOK_PERIOD_S = LOOK_PERIOD_S / 2


def worker(model_name: str, method: str, device: str, output_len: int, pipe: Connection) -> None:
    """Load the model, then for each request generate once and answer with the seconds it took."""
    from bitbench.engines.registry import engine
    from bitbench.methods.checkpoint import prepare
    from bitbench.methods.registry import parse_method

    task = PrepareTask(model=parse_model(model_name), method=method, device=device)
    checkpoint = prepare(task, lambda _: None)
    model = engine("transformers").load(checkpoint, parse_method(method), device, False)
    ids = PROMPT.token_ids(0, model.vocab_size())
    for _ in range(4):
        model.generate(ids, output_len, None)
    pipe.send("ready")
    while (instrumented := pipe.recv()) is not None:
        ticks: list[float] = []
        model.synchronize()
        began = time.monotonic()
        model.generate(ids, output_len, (lambda: ticks.append(time.monotonic())) if instrumented else None)  # noqa: B023
        model.synchronize()
        pipe.send(time.monotonic() - began)


def timed(pipe: Connection, device: str, instrumented: bool) -> float:
    """Seconds of one generation, watched or not."""
    if not instrumented:
        pipe.send(False)
        return float(pipe.recv())
    with PowerWatch(device, _LOOK_PERIOD_S):
        pipe.send(True)
        return float(pipe.recv())


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
    """Run the pairs in random order within each pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", default="fp16")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=280.0, help="how long to go on taking pairs")
    parser.add_argument("--output-len", type=int, default=16)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(
        target=worker, args=(arguments.model, arguments.method, arguments.device, arguments.output_len, other)
    )
    process.start()
    other.close()
    assert pipe.recv() == "ready"
    order, logs = random.Random(1), []
    ends = time.monotonic() + arguments.seconds
    while time.monotonic() < ends:
        seconds = {flag: timed(pipe, arguments.device, flag) for flag in order.sample([True, False], 2)}
        logs.append(math.log(seconds[True] / seconds[False]))
    pipe.send(None)
    process.join()
    estimate, low, high = signed_rank_interval(logs)
    environment = collect(arguments.device)
    result = {
        **vars(arguments),
        "look_period_s": _LOOK_PERIOD_S,
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
