"""What measuring costs: the same generation with bitbench's instruments and without, paired and interleaved.

With: a tick of the clock for each token, and a PowerWatch in another process, as in a run. Without: neither.
Prints one JSON line: the mean of log(with / without) over pairs and the upper bound of its 95% interval.

    python scripts/instrumentation.py shape:qwen2.5-0.5b --device cuda:0 --pairs 40
"""

import argparse
import json
import math
import multiprocessing
import random
import statistics
import time
from multiprocessing.connection import Connection

from bitbench.facts.messages import PrepareTask
from bitbench.facts.models import parse_model
from bitbench.facts.workloads import parse_workload
from bitbench.measure.power import PowerWatch
from bitbench.results.machine import collect
from bitbench.results.student_t import t_quantile

PROMPT = parse_workload("p40-n64")


def worker(model_name: str, method: str, device: str, output_len: int, pipe: Connection) -> None:
    """Load the model, then for each request generate once and answer with the seconds it took."""
    from bitbench.methods.checkpoint import prepare

    from bitbench.engines.registry import engine
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
    with PowerWatch(device):
        pipe.send(True)
        return float(pipe.recv())


def main() -> None:
    """Run the pairs in random order within each pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", default="fp16")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--output-len", type=int, default=64)
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
    for _ in range(arguments.pairs):
        seconds = {flag: timed(pipe, arguments.device, flag) for flag in order.sample([True, False], 2)}
        logs.append(math.log(seconds[True] / seconds[False]))
    pipe.send(None)
    process.join()
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    upper = statistics.fmean(logs) + t_quantile(len(logs) - 1) * error
    environment = collect(arguments.device)
    result = {
        **vars(arguments),
        "device_name": environment.device_name,
        "versions": environment.versions,
        "mean_relative_difference": math.expm1(statistics.fmean(logs)),
        "upper_bound_95": math.expm1(upper),
        "log_ratios": logs,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
