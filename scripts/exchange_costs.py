"""What a boundary between two phases of a persistent kernel costs, by different means (exchange_costs.cu).

Prints a table and, with --out, appends one JSON line a variant: microseconds a phase, the median of several launches.

    python scripts/exchange_costs.py --out results/exchange-costs.jsonl
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch
from gpu_time import milliseconds
from lines import append

from bitbench.results.machine import collect

SOURCE = Path(__file__).with_suffix(".cu")
VARIANTS = {"counter": 0, "packets": 1, "packets16": 2, "copies2": 3, "copies4": 3, "copies8": 3, "nap": 4}
_THREADS = 256


def microseconds(variant: str, size: int, blocks: int, phases: int, launches: int) -> tuple[float, float]:
    """Median and fastest time of a phase, by CUDA events around a whole launch. Checks that all blocks agree."""
    copies = int(variant[6:]) if variant.startswith("copies") else 1
    options = [f"-DVARIANT={VARIANTS[variant]}", f"-DSIZE={size}", f"-DCOPY={copies}", "--std=c++17"]
    kernel = torch.cuda._compile_kernel(SOURCE.read_text(encoding="utf-8"), "exchange", nvcc_options=options)
    times = []
    for _ in range(launches):
        vector = torch.zeros(4 * copies * size + 64, dtype=torch.int64, device="cuda")
        plain, counter = torch.zeros(2 * size, device="cuda"), torch.zeros(1, dtype=torch.int32, device="cuda")
        cycles, out = torch.zeros(blocks, dtype=torch.int64, device="cuda"), torch.zeros(blocks, device="cuda")
        given = [vector, plain, counter, cycles, out, phases]
        took_ms = milliseconds(partial(kernel, (blocks, 1, 1), (_THREADS, 1, 1), given))
        assert (out == out[0]).all() and torch.isfinite(out[0]), "blocks disagree about what they read"
        times.append(took_ms * 1e3 / phases)
    return statistics.median(times), min(times)


def main() -> None:
    """All variants at three sizes of the vector, two of them with fewer blocks too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", type=int, default=4000)
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    environment = collect("cuda:0")
    most = torch.cuda.get_device_properties(0).multi_processor_count
    cells = [(size, most, variant) for size in (448, 896, 1792) for variant in VARIANTS]
    cells += [(896, blocks, variant) for blocks in (8, 32, 64, 100) for variant in ("counter", "packets")]
    for size, blocks, variant in cells:
        median, least = microseconds(variant, size, blocks, arguments.phases, arguments.launches)
        told = f"{blocks:4} blocks, {size:5} numbers, {variant:10}"
        print(f"{told} {median:6.3f} us a phase (fastest {least:.3f})", flush=True)
        line = {
            "variant": variant,
            "numbers": size,
            "blocks": blocks,
            "phases": arguments.phases,
            "launches": arguments.launches,
            "median_us": round(median, 4),
            "min_us": round(least, 4),
        }
        append(line, environment, arguments.out)


if __name__ == "__main__":
    main()
