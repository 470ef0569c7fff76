"""Which lines of 128 bytes share a slice of L2, and how fast all multiprocessors read the same lines at once:
neighbouring ones, lines drawn at random, spread evenly over slices, and of a few slices only (l2_sides.cu).

A line's slice shows in how far it is from each multiprocessor: lines whose distances are alike, but for what measuring
them twice differs by, are taken to be in one. --distances keeps them, float16 [lines, multiprocessors], for a closer
look. With --out, appends JSON lines.

    python scripts/l2_slices.py --out results/h200-l2-slices.jsonl
"""

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from l2_sides import THREADS, WORDS, distances, kernel, words
from lines import tell

from bitbench.results.machine import collect

_ALIKE = 3.0
"""Two lines of a slice differ by sqrt(2) of what one differs by from itself."""


def slices(first_LB: Any, second_LB: Any, alike: float = _ALIKE) -> tuple[list[int], float]:
    """For each line the number of its slice, and what measuring twice differs by (RMS, cycles): each line joins the
    nearest slice met so far if it is that near, else begins one.
    """
    noise = float((first_LB - second_LB).square().mean().sqrt()) / 2**0.5
    lines_LB = (first_LB + second_LB) / 2
    lines_LB = lines_LB - lines_LB.mean(dim=0)
    sums: list[Any] = []
    counts: list[int] = []
    found = []
    for line_B in lines_LB:
        if sums:
            centres_SB = torch.stack([total / count for total, count in zip(sums, counts, strict=True)])
            apart_S = (centres_SB - line_B).square().mean(dim=1).sqrt()
            nearest = int(apart_S.argmin())
            if float(apart_S[nearest]) < alike * noise:
                sums[nearest], counts[nearest] = sums[nearest] + line_B, counts[nearest] + 1
                found.append(nearest)
                continue
        found.append(len(sums))
        sums.append(line_B.clone())
        counts.append(1)
    return found, noise


def evenly(slice_of: list[int], count: int, draw: random.Random) -> list[int]:
    """So many lines, as evenly spread over slices as can be."""
    members: dict[int, list[int]] = {}
    for line, number in enumerate(slice_of):
        members.setdefault(number, []).append(line)
    for lines in members.values():
        draw.shuffle(lines)
    turns = [[lines[turn] for lines in members.values() if turn < len(lines)] for turn in range(count)]
    for lines in turns:
        draw.shuffle(lines)
    return [line for lines in turns for line in lines][:count]


def most_of_a_slice(slice_of: list[int], lines: list[int]) -> int:
    """How many of the lines the slice has that has most of them."""
    of = [slice_of[line] for line in lines]
    return max(of.count(number) for number in set(of))


def bytes_a_cycle(pool: Any, lines: list[int], blocks: int, rounds: int) -> float:
    """Of each multiprocessor, when so many blocks read these lines at once, all of them in every round."""
    given = torch.tensor(lines, dtype=torch.int32, device="cuda")
    cycles, out = words(blocks), words(blocks)
    for _ in range(2):
        kernel("read_lines")((blocks, 1, 1), (THREADS, 1, 1), [pool, given, cycles, out, len(lines), rounds])
    return 128 * len(lines) * rounds / float(cycles.double().mean())


def main() -> None:
    """Slices, then rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--distances", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    environment = collect("cuda:0")
    most = torch.cuda.get_device_properties(0).multi_processor_count
    draw = random.Random(0)

    def told(line: dict[str, Any]) -> None:
        tell(line, environment, given.out)

    pool = words(WORDS * given.lines)
    first_LB, second_LB = (distances(most, pool).T.contiguous() for _ in range(2))
    if given.distances:
        torch.save((first_LB.half(), second_LB.half()), given.distances)
    slice_of, noise = slices(first_LB, second_LB)
    sizes = sorted(slice_of.count(number) for number in set(slice_of))
    told({
        "lines": given.lines, "slices": len(sizes), "noise_cycles": round(noise, 2),
        "lines_a_slice": [sizes[0], sizes[len(sizes) // 2], sizes[-1]],
        "first_slices": slice_of[:64],
    })  # fmt: skip
    few = [line for line, number in enumerate(slice_of) if number % 8 == 0]
    for count in (28, 56, 112, 224, 312):
        start = draw.randrange(given.lines - count)
        chosen = {
            "neighbouring": list(range(start, start + count)),
            "random": draw.sample(range(given.lines), count),
            "even": evenly(slice_of, count, draw),
            "few slices": draw.sample(few, min(count, len(few))),
        }
        for name, lines in chosen.items():
            for blocks in (1, most):
                rate = bytes_a_cycle(pool, lines, blocks, given.rounds)
                told({
                    "chosen": name, "lines": len(lines), "most_of_a_slice": most_of_a_slice(slice_of, lines),
                    "blocks": blocks, "bytes_a_cycle": round(rate, 1),
                })  # fmt: skip


if __name__ == "__main__":
    main()
