"""What passes between two replays of a CUDA graph, by the number of kernels in it, one graph or several in turns; and
what a copy within the device takes that stands behind each kernel.

python scripts/graph_gaps.py --out results/h200-graph-gaps.jsonl
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_time import milliseconds
from lines import tell

from bitbench.results.machine import collect

_SPIN = """
extern "C" __global__ void spin(float* x, int cycles) {
  const long long began = clock64();
  while (clock64() - began < cycles) {}
  if (threadIdx.x == 0) x[blockIdx.x] += 1;
}
"""
_CYCLES, _REPLAYS, _REPEATS = 3000, 60, 3


def graph(num_kernels: int, run: Any, x: Any, copy_to: Any = None) -> Any:
    """Of so many kernels that spin, one after another, each with a copy of 16 bytes behind it or not."""
    found = torch.cuda.CUDAGraph()
    with torch.cuda.graph(found):
        for _ in range(num_kernels):
            run((4, 1, 1), (128, 1, 1), [x, _CYCLES])
            if copy_to is not None:
                copy_to.copy_(x)
    return found


def per_replay_us(replays: Callable[[], None]) -> float:
    """Median over repeats, by CUDA events around all."""
    replays()
    torch.cuda.synchronize()
    return round(statistics.median(milliseconds(replays) for _ in range(_REPEATS)) / _REPLAYS * 1e3, 2)


def main() -> None:
    """A line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    environment = collect("cuda:0")
    run, x, to = torch.cuda._compile_kernel(_SPIN, "spin"), torch.zeros(4, device="cuda"), torch.zeros(4, device="cuda")
    run((4, 1, 1), (128, 1, 1), [x, _CYCLES])  # loaded before it is captured
    torch.cuda.synchronize()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(_REPLAYS + 1)]
    for num_kernels in (125, 250, 500, 1000, 2000):
        graphs = [graph(num_kernels, run, x) for _ in range(3)]

        def turns(count: int, graphs: list[Any] = graphs) -> None:
            for i in range(_REPLAYS):
                graphs[i % count].replay()

        def marked(graphs: list[Any] = graphs) -> None:
            marks[0].record()
            for mark in marks[1:]:
                graphs[0].replay()
                mark.record()

        line: dict[str, Any] = {"graph_kernels": num_kernels}
        for name, count in (("replay_us", 1), ("two_graphs_in_turns_us", 2), ("three_graphs_in_turns_us", 3)):
            line[name] = per_replay_us(lambda count=count: turns(count))
        line["with_events_us"] = per_replay_us(marked)
        with_copies = graph(num_kernels, run, x, copy_to=to)
        line["with_copies_us"] = per_replay_us(lambda g=with_copies: [g.replay() for _ in range(_REPLAYS)])
        began = time.perf_counter()
        turns(1)
        line["host_us"] = round((time.perf_counter() - began) / _REPLAYS * 1e6, 1)
        torch.cuda.synchronize()
        tell(line, environment, given.out)


if __name__ == "__main__":
    main()
