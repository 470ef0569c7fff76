"""How fast an SM runs code that it runs through once a round, by the length of the round: what its instruction caches
hold, and what it costs when they do not. Appends one JSON line with --out.

    python scripts/instruction_cache.py --out FILE
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from lines import append

from bitbench.results.machine import collect

DEVICE = "cuda:0"
INSTRUCTION_BYTES = 16
ROUNDS = 20
SOURCE = """
extern "C" __global__ void rounds(unsigned* cycles, float* sink, float a) {
  float x[4] = {a, a, a, a};
  unsigned began = 0;
#pragma unroll 1
  for (int round = 0; round < ROUNDS + 2; ++round) {
    if (round == 2) began = (unsigned)clock64();
#pragma unroll
    for (int i = 0; i < LENGTH; ++i) asm volatile("fma.rn.f32 %0, %0, %1, %1;" : "+f"(x[i % 4]) : "f"(a));
  }
  cycles[blockIdx.x * blockDim.x + threadIdx.x] = (unsigned)clock64() - began;
  sink[threadIdx.x] = x[0] + x[1] + x[2] + x[3];
}
"""


def cycles_each(kilobytes: int, warps: int, blocks: int) -> float:
    """Mean cycles for one instruction of every warp of a block, one block on each multiprocessor."""
    length = kilobytes * 1024 // INSTRUCTION_BYTES
    options = ["--std=c++17", f"-DLENGTH={length}", f"-DROUNDS={ROUNDS}"]
    run = torch.cuda._compile_kernel(SOURCE, "rounds", nvcc_options=options)
    cycles = torch.zeros(blocks, 32 * warps, dtype=torch.int32, device=DEVICE)
    sink = torch.zeros(32 * warps, device=DEVICE)
    run((blocks, 1, 1), (32 * warps, 1, 1), [cycles, sink, 0.5])
    torch.cuda.synchronize()
    return float(cycles.float().mean()) / (length * ROUNDS)


def main() -> None:
    """One line for each length, then the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    blocks = torch.cuda.get_device_properties(DEVICE).multi_processor_count
    environment = collect(DEVICE)
    rows: list[dict[str, Any]] = []
    for kilobytes in (8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256):
        each = {str(warps): round(cycles_each(kilobytes, warps, blocks), 2) for warps in (1, 4, 7)}
        rows.append({"kilobytes": kilobytes, "cycles_by_warps": each})
        print(rows[-1], flush=True)
    append({"rows": rows}, environment, arguments.out)


if __name__ == "__main__":
    main()
