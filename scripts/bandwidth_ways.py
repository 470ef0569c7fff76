"""How fast each way of reading that races for a CPU's bandwidth is, measured by itself as the winner of a race is.

Prints, and with --out appends as JSON lines, GB/s, the most of a few turns: other work on the host only ever slows.

    python scripts/bandwidth_ways.py --megabytes 8 --megabytes 64 --megabytes 256
"""

import argparse
from pathlib import Path

from lines import tell

from bitbench.measure.bandwidth_cpu import RULES, CpuReader, host_seconds
from bitbench.measure.bandwidth_race import race
from bitbench.results.machine import collect

_TURNS = 3


def main() -> None:
    """A line for each size and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, action="append")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    sizes = [mb * 2**20 for mb in given.megabytes or [8, 64, 256]]
    environment = collect("cpu")
    reader = CpuReader(max(sizes))
    for size in sizes:
        ways = reader.ways(size)
        turns = [[race([way], host_seconds, RULES).pass_s for way in ways] for _ in range(_TURNS)]
        for way, took_s in zip(ways, zip(*turns, strict=True), strict=True):
            line = {"num_bytes": size, "way": way.name, "gb_per_s": round(size / min(took_s) / 1e9, 1)}
            tell(line, environment, given.out)
    reader.close()


if __name__ == "__main__":
    main()
