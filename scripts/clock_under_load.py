"""The clock that a GPU's multiprocessors really have while our own decoder runs, and while they do simpler things.

NVML tells the clock that was asked for. Here a kernel counts its own cycles beside the GPU's time. Prints, and with
--out appends as JSON lines, for each load its cycles a nanosecond, and what NVML says meanwhile: of simple loads on one
multiprocessor and on another, and of the decoder's step with tensor cores, without, and with them in attention only.
Of the step as it is also how long its phases take, in cycles and, by another kernel, in nanoseconds.

    python scripts/clock_under_load.py shape:qwen2.5-0.5b --out results/h200-clock-under-load.jsonl
"""

import argparse
import statistics
import time
from collections.abc import Callable
from enum import IntFlag
from functools import partial
from pathlib import Path
from typing import Any

import torch
from changed_kernel import changed, replaced
from decode_steps import DEVICE, STORED, loaded, source_hash, where
from lines import tell

from bitbench.decode.step_kernel import StepKernel, on_cuda
from bitbench.measure.power import PowerWatch
from bitbench.results.machine import collect

_NUM_STEPS, _ROOM, _ANSWERS = 128, 160, 50
_TIMER, _CYCLES = "%globaltimer;", "%clock64;"
_PERIOD_S, _LOAD_NS = 0.02, 500_000_000


class Does(IntFlag):
    """What the simple kernel's blocks do; the kernel has the same names."""

    ADD = 1
    READ = 2
    MULTIPLY = 4
    HALF = 8  # of the time, all blocks at once
    ONCE = 16  # a matrix instead of 16
    ZEROS = 32
    BYTES = 64  # multiplied as integers
    ONE_BLOCK = 128
    IN_STEP = 1 << 16  # a block's warps meet, multiply and pause for 1/2 us
    SHARED = 1 << 17  # numbers from shared memory


_SIXTEENTH = 256  # times log2 of the nanoseconds in which matrices are multiplied, then fifteen times as long not
OPTIONS = [f"-DSIXTEENTH={_SIXTEENTH}", *(f"-D{one.name}={one.value}" for one in Does)]
LOADS = {
    "nothing but one block": 0,
    "all wait": 0,
    "all add": Does.ADD,
    "all read L2": Does.READ,
    "all read memory": Does.READ,
    "all multiply matrices": Does.MULTIPLY,
    "all read memory and multiply": Does.READ | Does.MULTIPLY,
    "all read memory half of the time": Does.READ | Does.HALF,
    "all multiply half of the time": Does.MULTIPLY | Does.HALF,
    "all do both half of the time": Does.READ | Does.MULTIPLY | Does.HALF,
    "all add, and multiply a little": Does.ADD | Does.MULTIPLY | Does.ONCE,
    "all multiply zeros": Does.MULTIPLY | Does.ZEROS,
    "all multiply bytes": Does.BYTES,
    "all multiply 1/4 us of 1/2": Does.MULTIPLY | Does.HALF | 8 * _SIXTEENTH,
    "all multiply 1/2 us of 1": Does.MULTIPLY | Does.HALF | 9 * _SIXTEENTH,
    "all multiply 1 us of 2": Does.MULTIPLY | Does.HALF | 10 * _SIXTEENTH,
    "all do both 1/2 us of 1": Does.READ | Does.MULTIPLY | Does.HALF | 9 * _SIXTEENTH,
    "warps in step multiply, then pause": Does.MULTIPLY | Does.IN_STEP,
    "warps in step read shared memory and multiply, then pause": Does.MULTIPLY | Does.IN_STEP | Does.SHARED,
    "all read shared memory and multiply": Does.MULTIPLY | Does.SHARED,
    "one multiprocessor multiplies": Does.ADD | Does.MULTIPLY | Does.ONE_BLOCK,
    "all multiply 1 us of 16": Does.ADD | Does.MULTIPLY | 10 * _SIXTEENTH,
    "all multiply 8 us of 131": Does.ADD | Does.MULTIPLY | 13 * _SIXTEENTH,
    "all multiply 131 us of 2097": Does.ADD | Does.MULTIPLY | 17 * _SIXTEENTH,
    "all multiply 1 ms of 17": Does.ADD | Does.MULTIPLY | 20 * _SIXTEENTH,
    "all multiply 8 ms of 134": Does.ADD | Does.MULTIPLY | 23 * _SIXTEENTH,
}
_SOURCE = """
extern "C" __global__ void load(const uint4* from, int count, int what, int ns, long long* out) {
  long long begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  const long long cycles = clock64();
  const int stride = gridDim.x * blockDim.x;
  int i = (blockIdx.x * blockDim.x + threadIdx.x) % count;
  unsigned v = threadIdx.x, a = what & ZEROS ? 0 : 0x9e3779b9u * v >> 2, b = what & ZEROS ? 0 : 0x85ebca6bu * v >> 2;
  float x = v, y = 1, sums[4] = {};
  int totals[4] = {};
  const int shift = (unsigned)what / SIXTEENTH & 255;
  __shared__ uint4 numbers[1024];
  numbers[threadIdx.x] = {v, a, b, v};
  bool going = true;
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    going = now - begin < ns;
    if (what & IN_STEP) {
      __nanosleep(500);
      going = __syncthreads_and(going);
    }
    for (int k = 0; k < 8 && what & SHARED; ++k) {
      uint4 w;
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w)
                   : "r"((unsigned)__cvta_generic_to_shared(numbers + (threadIdx.x + 32 * k) % 1024)));
      a ^= w.x & 1, b ^= w.y & 1;
    }
    if (!(what & (ADD | READ | MULTIPLY | BYTES)) || (what & HALF && now >> (shift ? shift : 12) & 1)) {  // in phase
      __nanosleep(200);
      continue;
    }
    if (what & ADD)
      for (int k = 0; k < 256; ++k) x = fmaf(x, 0.5f, y), y = fmaf(y, 0.5f, x);
    if (what & READ) {
      #pragma unroll
      for (int k = 0; k < 8; ++k, i = i + stride < count ? i + stride : threadIdx.x) {
        uint4 w;
        asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w) : "l"(from + i));
        v ^= w.x ^ w.y ^ w.z ^ w.w;
      }
    }
    if (what & MULTIPLY && !(what & ONE_BLOCK && blockIdx.x) && !(!(what & HALF) && shift && now >> shift & 15))
      for (int k = what & ONCE ? 15 : 0; k < 16; ++k)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %4, %5}, "
                     "{%4, %5}, {%0, %1, %2, %3};"
                     : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(a), "r"(b));
    if (what & BYTES)
      for (int k = 0; k < 16; ++k)
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %4, %5}, "
                     "{%4, %5}, {%0, %1, %2, %3};"
                     : "+r"(totals[0]), "+r"(totals[1]), "+r"(totals[2]), "+r"(totals[3]) : "r"(a), "r"(b));
  } while (going);
  const int other = gridDim.x / 3;  // another multiprocessor's
  if (!blockIdx.x && !threadIdx.x) out[0] = clock64() - cycles, out[1] = now - begin;
  if (other == blockIdx.x && !threadIdx.x) out[2] = clock64() - cycles, out[3] = now - begin;
  if (v == 12345 && x == y + sums[0] + sums[3] + totals[0] + totals[3]) out[4] = v;
}
"""


# In place of what tensor cores do: other numbers, in a few instructions.
_STAND_INS = """
DEVICE void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  c[0] += as_float(((a0 ^ a1 ^ a2 ^ a3 ^ b0 ^ b1) & 0x7fffffu) | 0x3f800000u);
}
DEVICE void mma(int (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  c[0] += a0 ^ a1 ^ a2 ^ a3 ^ b0 ^ b1;
}
"""
TENSOR_CORES = ("everywhere", "nowhere", "in attention")


def of_tensor_cores(text: str, where: str) -> str:
    """The decoder's kernel when it counts cycles where it would ask the time, and uses tensor cores only there. Where
    it doesn't what it computes is wrong, and as fast as if they took no time.
    """
    text = replaced(text, _TIMER, _CYCLES)
    if where == "everywhere":
        return text
    text = text.replace("DEVICE void mma(", "DEVICE void by_tensor_cores(")
    begin, end = text.index("// Queries of eight heads"), text.index("// Joins the parts of")
    if where == "in attention":
        text = text[:begin] + text[begin:end].replace("mma(", "by_tensor_cores(") + text[end:]
    at = text.index("// ---- within a block")
    return text[:at] + _STAND_INS + text[at:]


def of_time(text: str) -> str:
    """The decoder's kernel when it stamps places with nanoseconds."""
    return replaced(text, "return (u32)clock64();", "return (u32)nanoseconds();")


def watched(work: Callable[[], None]) -> dict[str, Any]:
    """Does it, and tells what NVML said meanwhile."""
    with PowerWatch(DEVICE, _PERIOD_S) as watch:
        work()
        torch.cuda.synchronize()
    found = watch.samples()
    return {
        "nvml_ghz": sorted({round(s.sm_clock_hz / 1e9, 3) for s in found if s.sm_clock_hz}),
        "power_w": [round(s.power_w) for s in found if s.power_w],
        "reasons": sorted({reason for s in found for reason in s.throttle_reasons}),
    }


def answers(kernel: StepKernel) -> dict[str, list[Any]]:
    """Of some, one after another, the median step in cycles, and microseconds a step by the host."""
    counted, host_us = [], []
    for _ in range(_ANSWERS):
        kernel._forget()
        torch.cuda.synchronize()
        began = time.perf_counter()
        kernel.advance(_NUM_STEPS)
        torch.cuda.synchronize()
        host_us.append(round((time.perf_counter() - began) / _NUM_STEPS * 1e6, 2))
        counted.append(round(statistics.median(kernel.step_times_s()) * 1e9))
    return {"cycles": counted, "host_us": host_us}


def of_decoder(decoder: Any, batch: int, tensor_cores: str) -> dict[str, Any]:
    """Of the decoder's step."""
    with changed(partial(of_tensor_cores, where=tensor_cores)):
        kernel = on_cuda(decoder.forward, DEVICE, _ROOM, batch_size=batch, places=0)
    found: dict[str, Any] = {}
    about = watched(lambda: found.update(answers(kernel)))
    step_us = statistics.median(found["host_us"])
    cycles = statistics.median(found["cycles"])
    return {"ghz": round(cycles / step_us / 1e3, 3), "step_us": step_us, "step_cycles": cycles} | found | about


def of_phases(decoder: Any, batch: int) -> dict[str, Any]:
    """Of the decoder's step as it is."""
    found = {}
    for unit, change in (("cycles", str), ("ns", of_time)):
        with changed(change):
            kernel = on_cuda(decoder.forward, DEVICE, _ROOM, extra={"PROFILE": "1"}, batch_size=batch, places=0)
        answers(kernel)
        found[unit] = where(kernel)
    return {"ghz": round(found["cycles"]["layer"]["mean"] / found["ns"]["layer"]["mean"], 3)} | found


def of_load(name: str, run: Any, numbers: Any) -> dict[str, Any]:
    """Of the simple kernel, over half a second."""
    blocks = 1 if "one block" in name else torch.cuda.get_device_properties(DEVICE).multi_processor_count * 2
    count = 39 * 1024 // 16 if "L2" in name else numbers.nbytes // 16
    out = torch.zeros(5, dtype=torch.int64, device=DEVICE)
    line = watched(lambda: run((blocks, 1, 1), (1024, 1, 1), [numbers, count, int(LOADS[name]), _LOAD_NS, out]))
    cycles, ns, others, theirs = out[:4].tolist()
    return {"ghz": round(cycles / ns, 3), "another_ghz": round(others / theirs, 3)} | line


def main() -> None:
    """A line for each load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", action="append", choices=tuple(STORED))
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    record = partial(tell, environment=collect(DEVICE), out=given.out)
    run = torch.cuda._compile_kernel(_SOURCE, "load", nvcc_options=OPTIONS)
    numbers = torch.zeros(1 << 30, dtype=torch.int32, device=DEVICE)
    for name in LOADS:
        record({"load": name} | of_load(name, run, numbers))
    del numbers
    for method in given.method or ["fp16", "awq-int4"]:
        decoder = loaded(given.model, method, STORED[method])
        for batch in given.batch or [1]:
            line = {"load": "decoder", "model": given.model, "method": method, "batch": batch}
            line["kernel_source"] = source_hash()
            for tensor_cores in TENSOR_CORES:
                record(line | {"tensor_cores": tensor_cores} | of_decoder(decoder, batch, tensor_cores))
            record(line | {"tensor_cores": "everywhere", "phases": True} | of_phases(decoder, batch))


if __name__ == "__main__":
    main()
