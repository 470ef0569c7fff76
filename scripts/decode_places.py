"""What the places in memory of the numbers that blocks exchange change about a step of our own decoder, on a GPU.

Prints, and with --out appends as JSON lines, a step's microseconds at each of so many random places, in order. Their
median compares two versions of the kernel: at one place they differ by chance.

    python scripts/decode_places.py shape:qwen2.5-0.5b --method awq-int4 --batch 1 --batch 8
"""

import argparse
import itertools
import statistics
from pathlib import Path

import torch
from decode_steps import DEVICE, STORED, loaded, source_hash, variants
from lines import append

from bitbench.decode.step_kernel import on_cuda
from bitbench.results.machine import collect

_ROOM = 256


def main() -> None:
    """A line for each method, batch and variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", action="append", choices=tuple(STORED))
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--places", type=int, default=10)
    parser.add_argument("--steps", type=int, default=128, help="taken at each place, from position 0 on")
    parser.add_argument("--define", action="append", default=[], help="a variant of the kernel: NAME=VALUE,...")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    environment = collect(DEVICE)
    for method in given.method or ["fp16", "awq-int4"]:
        decoder = loaded(given.model, method, STORED[method])
        for batch, extra in itertools.product(given.batch or [1], variants(given.define)):
            kernel = on_cuda(decoder.forward, DEVICE, _ROOM, extra=extra, batch_size=batch, places=0)
            step_us = sorted(round(s * 1e6, 1) for s in kernel.settle(given.places, given.steps))
            line = {"model": given.model, "method": method, "batch": batch, "define": extra}
            line |= {"median_us": round(statistics.median(step_us), 1), "step_us": step_us}
            print(line, flush=True)
            append(line | {"kernel_source": source_hash()}, environment, given.out)
            del kernel
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
