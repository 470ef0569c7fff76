"""The clock of a GPU's multiprocessors when their warps use tensor cores in bursts, and what it does around a burst.

A block's warps do something for so many cycles or sleep for so many nanoseconds, meet, and then each reads shared
memory and multiplies. Prints, and with --out appends as JSON lines, cycles a nanosecond over a fifth of a second: the
median of all blocks, the least and the most. Then the course of the clock within a period that begins with a burst, as
one warp beside it counts it, in cycles a nanosecond for each piece of so many nanoseconds.

    python scripts/clock_bursts.py --out results/h200-clock-bursts.jsonl
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from lines import tell

from bitbench.results.machine import collect

DEVICE = "cuda:0"
_TIME_NS = 200_000_000
_PIECES, _PIECE_NS = 256, 64


@dataclasses.dataclass(frozen=True)
class Load:
    """What a block's warps do time and again, and how many there are; the kernel has the same names, in capitals."""

    threads: int = 128
    blocks: int = 1  # a multiprocessor
    sleep: int = 0  # nanoseconds
    spin: int = 1000  # cycles
    meet: int = 1  # whether warps wait for one another before a burst
    reads: int = 8  # of 8 bytes a lane, from shared memory
    integers: int = 0  # operations of two instructions and more
    products: int = 16  # m16n8k16 of float16
    chains: int = 1  # of products, that do not depend on one another
    bytes_products: int = 0  # m16n8k32 of bytes
    dots: int = 0  # dp4a
    heaters: int = 0  # warps more, which multiply once every so many cycles all the while
    heat_every: int = 100

    def options(self, **more: int) -> list[str]:
        """For the compiler."""
        return [f"-D{name.upper()}={value}" for name, value in (dataclasses.asdict(self) | more).items()]

    def differing(self) -> dict[str, int]:
        """From the usual."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value != getattr(Load, name)}


FULL = {"threads": 1024, "blocks": 2, "spin": 0, "sleep": 500}
LOADS = [
    Load(),
    *(Load(spin=cycles) for cycles in (0, 100, 300, 3000, 10_000)),
    Load(spin=0, sleep=500),
    *(Load(products=count) for count in (1, 4, 64)),
    *(Load(chains=chains, products=products) for chains, products in ((2, 16), (4, 16), (4, 64))),
    *(Load(reads=reads, chains=chains) for reads, chains in ((0, 1), (32, 1), (32, 4))),
    Load(meet=0),
    *(Load(threads=threads) for threads in (32, 64, 256, 512, 1024)),
    Load(products=0, bytes_products=16),
    Load(products=0, dots=64),
    *(Load(heaters=heaters, heat_every=cycles) for heaters in (1, 2, 4, 8) for cycles in (50, 200)),
    *(Load(threads=256, heaters=heaters) for heaters in (0, 4, 8)),
    *(Load(**FULL, products=count) for count in (1, 16)),
    Load(**FULL, products=0, bytes_products=16),
    Load(**FULL, products=0, dots=64),
    Load(**FULL | {"threads": 512, "blocks": 1}),
    Load(**FULL | {"threads": 1024, "blocks": 1}),
]
COURSES = [
    *((period_ns, Load()) for period_ns in (1024, 2048, 4096, 16384)),
    *((16384, load) for load in (Load(products=1), Load(products=64), Load(threads=32), Load(threads=512))),
    (16384, Load(products=0, bytes_products=16)),
    (16384, Load(products=0, dots=64)),
    *((period_ns, Load(heaters=4)) for period_ns in (1024, 16384)),
]
_SOURCE = """
struct Work {
  float sums[4][4] = {};
  int totals[4] = {};
  unsigned a = 0x9e3779b9u * threadIdx.x >> 2, b = 0x85ebca6bu * threadIdx.x >> 2, c = ~b >> 2, d = ~a >> 2;
  unsigned e = a, f = b;

  __device__ __forceinline__ void multiply(float (&o)[4]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(o[0]), "+f"(o[1]), "+f"(o[2]), "+f"(o[3]) : "r"(a), "r"(b), "r"(c), "r"(d), "r"(b), "r"(a));
  }
  __device__ __forceinline__ void burst(const uint4* numbers) {
    unsigned x = 0, y = 0;
    #pragma unroll
    for (int k = 0; k < READS; ++k) {
      uint4 w;
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w)
                   : "r"((unsigned)__cvta_generic_to_shared(numbers + ((threadIdx.x + 32 * k + 7 * e) & 1023))));
      x ^= w.x, y ^= w.y;
    }
    a ^= x & 1, b ^= y & 1, c ^= x & 2, d ^= y & 2;
    #pragma unroll
    for (int k = 0; k < INTEGERS; ++k) e = (e ^ (e << 3)) + 12345u * k, f = (f ^ (f >> 5)) + e;
    #pragma unroll
    for (int k = 0; k < PRODUCTS; ++k) multiply(sums[k % CHAINS]);
    #pragma unroll
    for (int k = 0; k < BYTES_PRODUCTS; ++k)
      asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                   "{%0, %1, %2, %3};"
                   : "+r"(totals[0]), "+r"(totals[1]), "+r"(totals[2]), "+r"(totals[3])
                   : "r"(a), "r"(b), "r"(c), "r"(d), "r"(b), "r"(a));
    #pragma unroll
    for (int k = 0; k < DOTS; ++k) totals[k % 4] = __dp4a((int)a, (int)(b + k), totals[k % 4]);
  }
  __device__ __forceinline__ bool happens() const {  // never, and the compiler does not know
    const float all = sums[0][0] + sums[1][1] + sums[2][2] + sums[3][3];
    return all + totals[0] + totals[1] + totals[2] + totals[3] == 12345.5f && e == f;
  }
};
__device__ void fill(uint4* numbers) {
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) numbers[i] = {i * 77u, i * 0x9e3779b9u, i * 0x85ebca6bu, 1};
}
__device__ __forceinline__ long long nanoseconds() {
  long long now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}
__device__ __forceinline__ void spin(int cycles) {
  const long long from = clock64();
  while (clock64() - from < cycles) {
  }
}
// Whether all of the block's warps but heaters go on.
__device__ __forceinline__ bool meet(bool going) {
  unsigned all;
  asm volatile("{.reg .pred p, q; setp.ne.u32 p, %1, 0; bar.red.and.pred q, 1, %2, p; selp.u32 %0, 1, 0, q;}"
               : "=r"(all)
               : "r"((unsigned)going), "n"(THREADS)
               : "memory");
  return all;
}

extern "C" __global__ void load(int ns, long long* out) {
  __shared__ uint4 numbers[1024];
  fill(numbers);
  __syncthreads();
  Work work;
  const long long begin = nanoseconds(), cycles = clock64();
  long long now = begin;
  bool going = true;
  while (going) {
    now = nanoseconds();
    going = now - begin < ns;
    if (threadIdx.x >= THREADS) {
      work.multiply(work.sums[0]);
      spin(HEAT_EVERY);
      continue;
    }
    if (SLEEP) __nanosleep(SLEEP);
    if (SPIN) spin(SPIN);
    if (MEET) going = meet(going);
    work.burst(numbers);
  }
  if (!threadIdx.x || work.happens()) out[2 * blockIdx.x] = clock64() - cycles, out[2 * blockIdx.x + 1] = now - begin;
}

// All blocks' periods of 2^shift ns begin together. The last warp counts its cycles since then, for each piece.
extern "C" __global__ void course(int shift, int periods, long long* out) {
  __shared__ uint4 numbers[1024];
  __shared__ long long sums[PIECES], counts[PIECES];
  fill(numbers);
  for (int i = threadIdx.x; i < PIECES; i += blockDim.x) sums[i] = counts[i] = 0;
  __syncthreads();
  Work work;
  const long long first = (nanoseconds() >> shift) + 2, last = first + periods;
  if (threadIdx.x >= THREADS + 32 * HEATERS) {
    long long from = 0, at = 0, reached = 0;
    while (threadIdx.x == THREADS + 32 * HEATERS && at < last) {
      const long long now = nanoseconds(), cycles = clock64();
      at = now >> shift;
      if (at != reached) reached = at, from = cycles;
      const int piece = (int)(now & ((1 << shift) - 1)) / PIECE_NS;
      if (at >= first && piece < PIECES) sums[piece] += cycles - from, counts[piece] += 1;
    }
  } else if (threadIdx.x >= THREADS) {
    while (nanoseconds() >> shift < last) {
      work.multiply(work.sums[0]);
      spin(HEAT_EVERY);
    }
  } else {
    for (long long n = first; n < last; ++n) {
      while (nanoseconds() >> shift < n) {
      }
      __syncwarp();
      work.burst(numbers);
    }
  }
  __syncthreads();
  if (!blockIdx.x)
    for (int i = threadIdx.x; i < PIECES; i += blockDim.x) out[2 * i] = sums[i], out[2 * i + 1] = counts[i];
  if (work.happens()) out[0] = 0;
}
"""


def compiled(name: str, given: Load) -> Any:
    """One of the kernels."""
    return torch.cuda._compile_kernel(_SOURCE, name, nvcc_options=given.options(pieces=_PIECES, piece_ns=_PIECE_NS))


def blocks(given: Load) -> int:
    """Of the whole GPU."""
    multiprocessors: int = torch.cuda.get_device_properties(DEVICE).multi_processor_count
    return multiprocessors * given.blocks


def of_load(given: Load) -> dict[str, Any]:
    """Cycles a nanosecond: of all blocks the median, the least and the most."""
    out = torch.zeros(2 * blocks(given), dtype=torch.int64, device=DEVICE)
    compiled("load", given)((blocks(given), 1, 1), (given.threads + 32 * given.heaters, 1, 1), [_TIME_NS, out])
    torch.cuda.synchronize()
    ghz = (out[::2].double() / out[1::2]).sort().values
    return {
        "ghz": round(ghz.median().item(), 3),
        "least_ghz": round(ghz[0].item(), 3),
        "most_ghz": round(ghz[-1].item(), 3),
    }


def of_course(given: Load, period_ns: int) -> dict[str, Any]:
    """Cycles a nanosecond in each piece of a period, a power of two."""
    shift = period_ns.bit_length() - 1
    assert period_ns == 1 << shift, "the kernel shifts"
    out = torch.zeros(2 * _PIECES, dtype=torch.int64, device=DEVICE)
    threads = given.threads + 32 * given.heaters + 32
    compiled("course", given)((blocks(given), 1, 1), (threads, 1, 1), [shift, _TIME_NS // period_ns, out])
    torch.cuda.synchronize()
    pieces = min(_PIECES, period_ns // _PIECE_NS)
    return {"piece_ns": _PIECE_NS, "ghz": clock(out[: 2 * pieces : 2], out[1 : 2 * pieces : 2])}


def clock(cycles_P: torch.Tensor, counts_P: torch.Tensor) -> list[float | None]:
    """Cycles a nanosecond from each piece to the next, from cycles added up in each, and how often: one less than P.

    None beside a piece in which nobody looked.
    """
    mean_P = cycles_P.double() / counts_P
    ghz = ((mean_P[1:] - mean_P[:-1]) / _PIECE_NS).tolist()
    return [None if math.isnan(one) else round(one, 3) for one in ghz]


def main() -> None:
    """A line for each load and for each course."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    environment = collect(DEVICE)

    for load in LOADS:
        tell({"load": load.differing()} | of_load(load), environment, given.out)
    for period_ns, load in COURSES:
        line = {"period_ns": period_ns, "load": load.differing()} | of_course(load, period_ns)
        tell(line, environment, given.out)


if __name__ == "__main__":
    main()
