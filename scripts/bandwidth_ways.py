"""How fast each way of reading that races for a CPU's bandwidth is, one set of bytes after another.

Prints, and with --out appends as JSON lines, what a tenth of each way's groups reach, as the measurement takes it, and
the median, in GB/s.

    python scripts/bandwidth_ways.py --megabytes 8 --megabytes 64 --megabytes 256
"""

import argparse
import statistics
import time
from pathlib import Path

from lines import append

from bitbench.measure.bandwidth_cpu import RULES, CpuReader
from bitbench.results.machine import collect

_GROUPS = 40


def main() -> None:
    """A line for each size and way; groups of the ways take turns, so that a disturbance meets all alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, action="append")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    sizes = [mb * 2**20 for mb in given.megabytes or [8, 64, 256]]
    environment = collect("cpu")
    reader = CpuReader(max(sizes))
    for size in sizes:
        took: dict[str, list[float]] = {}
        ways = reader.ways(size)
        for _ in range(_GROUPS):
            for way in ways:
                passes = max(1, 2**28 // size)
                run = way.group(passes)
                began = time.perf_counter()
                run()
                took.setdefault(way.name, []).append((time.perf_counter() - began) / passes)
        for name, times in took.items():
            quickest = sorted(times)[int(RULES.quantile * len(times))]
            line = {"num_bytes": size, "way": name}
            line |= {"gb_per_s": round(size / quickest / 1e9, 1)}
            line |= {"median_gb_per_s": round(size / statistics.median(times) / 1e9, 1)}
            print(line, flush=True)
            append(line, environment, given.out)
    reader.close()


if __name__ == "__main__":
    main()
