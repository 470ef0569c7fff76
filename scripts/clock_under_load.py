"""The clock that a GPU's multiprocessors really have while our own decoder runs, and while they do simpler things.

NVML tells a clock that was asked for, now and then. Here a kernel counts its own cycles beside the GPU's time. Prints,
and with --out appends as JSON lines, for each load its cycles a nanosecond, and what NVML says meanwhile.

    python scripts/clock_under_load.py shape:qwen2.5-0.5b --out results/h200-clock-under-load.jsonl
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from decode_steps import DEVICE, STORED, loaded, variants
from lines import append

from bitbench.decode import cuda_source
from bitbench.decode.step_kernel import StepKernel, on_cuda
from bitbench.decode.step_source import source_hash
from bitbench.measure.power import PowerWatch
from bitbench.results.machine import collect

_NUM_STEPS, _ROOM, _ANSWERS = 1000, 1024, 4
_TIMER, _CYCLES = "%globaltimer;", "%clock64;"
_PERIOD_S = 0.02
LOADS = ("nothing but one block", "all blocks wait", "all add", "all read L2", "all read memory")
_SOURCE = """
extern "C" __global__ void load(const uint4* from, int count, int what, int ns, long long* out) {
  long long begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  const long long cycles = clock64();
  const int stride = gridDim.x * blockDim.x;
  int i = (blockIdx.x * blockDim.x + threadIdx.x) % count;
  unsigned v = threadIdx.x;
  float x = v, y = 1;
  do {
    if (what < 2) __nanosleep(200);
    if (what == 2)
      for (int k = 0; k < 256; ++k) x = fmaf(x, 0.5f, y), y = fmaf(y, 0.5f, x);
    if (what > 2) {
      #pragma unroll
      for (int k = 0; k < 16; ++k, i = i + stride < count ? i + stride : threadIdx.x) {
        uint4 w;
        asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w) : "l"(from + i));
        v ^= w.x ^ w.y ^ w.z ^ w.w;
      }
    }
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < ns);
  if (!blockIdx.x && !threadIdx.x) out[0] = clock64() - cycles, out[1] = now - begin;
  if (v == 12345 && x == y) out[2] = v;
}
"""


@contextmanager
def counting(cycles: bool) -> Iterator[None]:
    """While this is open the kernel is compiled to count cycles where it would ask the time, or as it is."""
    source = cuda_source.source

    def changed(*arguments: Any) -> str:
        text = source(*arguments)
        assert text.count(_TIMER) <= 1, "a kernel asks the time in one place"
        return text.replace(_TIMER, _CYCLES) if cycles else text

    cuda_source._compiled.cache_clear()
    cuda_source.source = changed
    try:
        yield
    finally:
        cuda_source.source = source
        cuda_source._compiled.cache_clear()


def watched(work: Callable[[], None]) -> dict[str, Any]:
    """Does it, and tells what NVML said meanwhile."""
    with PowerWatch(DEVICE, _PERIOD_S) as watch:
        work()
        torch.cuda.synchronize()
    found = watch.samples()
    return {
        "nvml_ghz": [round(s.sm_clock_hz / 1e9, 3) for s in found if s.sm_clock_hz],
        "power_w": [round(s.power_w) for s in found if s.power_w],
        "reasons": sorted({reason for s in found for reason in s.throttle_reasons}),
    }


def answers(kernel: StepKernel) -> None:
    """Some, one after another."""
    for _ in range(_ANSWERS):
        kernel._forget()
        kernel.advance(_NUM_STEPS)


def of_decoder(decoder: Any, batch: int, extra: dict[str, str]) -> dict[str, Any]:
    """Of a step by its median in nanoseconds and in cycles, two kernels that differ in what they count."""
    took, line = {}, {}
    for name, cycles in (("step_ns", False), ("step_cycles", True)):
        with counting(cycles):
            kernel = on_cuda(decoder.forward, DEVICE, _ROOM, extra=extra, batch_size=batch, places=0)
        answers(kernel)
        line |= watched(partial(answers, kernel))
        took[name] = round(statistics.median(kernel.step_times_s()) * 1e9)
    return took | {"ghz": round(took["step_cycles"] / took["step_ns"], 3)} | line


def of_load(what: int, run: Any, numbers: Any) -> dict[str, Any]:
    """Of the simple kernel, over half a second."""
    blocks = 1 if what == 0 else torch.cuda.get_device_properties(DEVICE).multi_processor_count * 2
    count = 39 * 1024 // 16 if what == 3 else numbers.nbytes // 16
    out = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    line = watched(lambda: run((blocks, 1, 1), (1024, 1, 1), [numbers, count, what, 500_000_000, out]))
    cycles, ns = out[:2].tolist()
    return {"ghz": round(cycles / ns, 3)} | line


def main() -> None:
    """A line for each load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", action="append", choices=tuple(STORED))
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--define", action="append", default=[], help="a variant of the kernel: NAME=VALUE,...")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    environment = collect(DEVICE)

    def tell(line: dict[str, Any]) -> None:
        print(line, flush=True)
        append(line, environment, given.out)

    run = torch.cuda._compile_kernel(_SOURCE, "load")
    numbers = torch.zeros(1 << 30, dtype=torch.int32, device=DEVICE)
    for what, name in enumerate(LOADS):
        tell({"load": name} | of_load(what, run, numbers))
    del numbers
    for method in given.method or ["fp16", "awq-int4"]:
        decoder = loaded(given.model, method, STORED[method])
        for batch in given.batch or [1]:
            for extra in variants(given.define):
                line = {"load": "decoder", "model": given.model, "method": method, "batch": batch, "define": extra}
                tell(line | of_decoder(decoder, batch, extra) | {"kernel_source": source_hash()})


if __name__ == "__main__":
    main()
