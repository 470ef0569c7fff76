"""How far lines of L2 are from each multiprocessor, how long a word takes from one to another, and what an empty phase
takes in which all blocks hand a vector on, by the number of blocks, of copies and of sectors from one to the next
(l2_sides.cu). With --out, appends JSON lines.

    python scripts/l2_sides.py --out results/h200-l2-sides.jsonl
"""

import argparse
import statistics
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from gpu_time import milliseconds
from lines import tell

from bitbench.results.machine import collect

SOURCE = Path(__file__).with_suffix(".cu")
THREADS = 224
_LINES, WORDS = 256, 16
"""Lines of 128 bytes whose distances are measured, and words of each."""
_ROUNDS = 2000


@cache
def kernel(name: str) -> Any:
    """One of the source's, compiled once."""
    return torch.cuda._compile_kernel(SOURCE.read_text(encoding="utf-8"), name, nvcc_options=["--std=c++17"])


def words(count: int) -> Any:
    """That many zeros on the GPU."""
    return torch.zeros(count, dtype=torch.int64, device="cuda")


def distances(blocks: int, pool: Any) -> Any:
    """Mean cycles of a load that finds its line of `pool` (zeros) in L2, float32 [blocks, lines]."""
    lines = pool.numel() // WORDS
    cycles = torch.zeros(blocks, lines, dtype=torch.int32, device="cuda")
    for _ in range(2):  # the first time brings everything into caches
        kernel("latencies")((blocks, 1, 1), (32, 1, 1), [pool, cycles, lines, 8])
    return cycles.float().cpu()


def sides(cycles_BL: Any) -> tuple[Any, Any]:
    """Which of two sides each block and each line is on, by the strongest pattern in their distances."""
    means = cycles_BL.mean(dim=1, keepdim=True) + cycles_BL.mean(dim=0, keepdim=True)
    u, _, vh = torch.linalg.svd(cycles_BL - means + cycles_BL.mean(), full_matrices=False)
    return u[:, 0] > 0, vh[0] < 0


def one_way_cycles(blocks: int, other: int) -> float:
    """From a store of block 0 until block `other` has seen it, and back, halved."""
    pool, cycles = words(2048), words(1)
    kernel("ping_pong")((blocks, 1, 1), (32, 1, 1), [pool, pool[1024:], cycles, other, _ROUNDS])
    return int(cycles) / _ROUNDS / 2


def phase_us(blocks: int, copies: int, sectors: int, phases: int, launches: int) -> float:
    """Median time of a phase; each copy begins two lines behind the last one's end."""
    apart = -(-4 * blocks * sectors // WORDS) * WORDS + 2 * WORDS
    run, times = kernel("exchange"), []
    for _ in range(launches):
        pool = words(2 * copies * apart)
        pool[copies * apart :] = 1  # the first tags are 0 for the second half and then 1 for the first
        out = torch.zeros(blocks, device="cuda")
        given = [pool, out, copies, apart, sectors, phases]
        took_ms = milliseconds(partial(run, (blocks, 1, 1), (THREADS, 1, 1), given))
        times.append(took_ms * 1e3 / phases)
    return statistics.median(times)


def main() -> None:
    """Distances, ways, phases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", type=int, default=4000)
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    environment = collect("cuda:0")
    most = torch.cuda.get_device_properties(0).multi_processor_count

    def told(line: dict[str, Any]) -> None:
        tell(line, environment, given.out)

    cycles_BL = distances(most, words(WORDS * _LINES))
    near_B, near_L = sides(cycles_BL)
    same_BL = near_B[:, None] == near_L[None, :]
    told({
        "load_cycles_same_side": round(float(cycles_BL[same_BL].mean()), 1),
        "load_cycles_other_side": round(float(cycles_BL[~same_BL].mean()), 1),
        "blocks_on_a_side": int(near_B.sum()), "lines_on_a_side": int(near_L.sum()), "lines": _LINES,
    })  # fmt: skip
    ways = {other: one_way_cycles(most, other) for other in range(1, most, 5)}
    of_side = {
        same: [way for other, way in ways.items() if bool(near_B[other] == near_B[0]) is same] for same in (True, False)
    }
    told({
        "one_way_cycles_same_side": round(statistics.median(of_side[True]), 1),
        "one_way_cycles_other_side": round(statistics.median(of_side[False]), 1),
        "pairs": len(ways),
    })  # fmt: skip
    for blocks in (2, 8, 16, 32, 64, most):
        for copies in (1, 2, 4, 8) if blocks < most else (1, 2, 3, 4, 8, 16, 33, 66, most):
            us = phase_us(blocks, copies, 1, given.phases, given.launches)
            told({"blocks": blocks, "copies": copies, "phase_us": round(us, 4)})
    for sectors in (1, 2, 4, 8, 16):
        us = phase_us(most, 1, sectors, given.phases, given.launches)
        told({"blocks": most, "copies": 1, "sectors_apart": sectors, "phase_us": round(us, 4)})


if __name__ == "__main__":
    main()
