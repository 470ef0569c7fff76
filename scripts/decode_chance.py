"""What changes a step of our own decoder from process to process, though the kernel is the same.

Prints, and with --out appends as JSON lines, microseconds of a step with nothing changed, with other copies of the
weights, with another key-value cache, with the kernel loaded anew, and with what blocks exchange at other places: all
at once, and one of the buffers at a time, kept where it is faster. Of some places also what fewer steps from the first
position on say of them.

    python scripts/decode_chance.py shape:qwen2.5-0.5b --method awq-int4
"""

import argparse
import itertools
import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from decode_steps import DEVICE, STORED, loaded, source_hash
from lines import append

from bitbench.decode import cuda_source
from bitbench.decode.placing import LINE, tried
from bitbench.decode.step_kernel import POLLED, StepKernel, on_cuda
from bitbench.results.machine import collect

_PROMPT_LEN, _NUM_STEPS, _ROOM = 40, 127, 192
_LOADS = 3
_PLACES = 1024  # of one buffer, a line apart
_STEPS_TRIED = (16, 64, 128)


class Chance:
    """A kernel whose buffers change places."""

    def __init__(self, kernel: StepKernel) -> None:
        self._kernel = kernel
        self._kept: list[Any] = []  # memory that is freed would be given out again

    def step_us(
        self, buffers: Mapping[str, Any] | None = None, prompt_len: int = _PROMPT_LEN, num_steps: int = _NUM_STEPS
    ) -> float:
        """The median step of an answer with these buffers from now on, the least of two answers."""
        kernel = self._kernel
        kernel._buffers |= buffers or {}
        took = []
        for _ in range(2):
            kernel._forget()
            if prompt_len:
                kernel.start_all([list(range(1, prompt_len + 1))] * kernel.batch_size)
            kernel.advance(num_steps)
            took.append(statistics.median(kernel.step_times_s()) * 1e6)
        return round(min(took), 2)

    def copies(self, *names: str) -> dict[str, Any]:
        """These buffers elsewhere."""
        self._kept += [self._kernel._buffers[name] for name in names]
        return {name: self._kernel._buffers[name].clone() for name in names}

    def load_anew(self) -> None:
        """The kernel's code elsewhere; takes as long as to compile it."""
        kernel = self._kernel
        self._kept.append(kernel.launch)
        cuda_source._compiled.cache_clear()
        again = on_cuda(kernel.forward, DEVICE, _ROOM, batch_size=kernel.batch_size, places=0)
        kernel.launch = again.launch

    def ways(self, tries: int) -> list[dict[str, float]]:
        """A step at random places, by an answer and by fewer steps without a prompt."""
        found: list[dict[str, float]] = []

        def seconds(places: Mapping[str, Any]) -> float:
            answer = self.step_us(places)
            found.append({"answer": answer} | {str(n): self.step_us(prompt_len=0, num_steps=n) for n in _STEPS_TRIED})
            return answer

        tried(self._kernel._buffers, POLLED, seconds, tries)
        return found

    def places(self, tries: int) -> list[float]:
        """A step at random places of all buffers; the best is kept."""
        found, took = tried(self._kernel._buffers, POLLED, self.step_us, tries)
        self._kernel._buffers |= found
        return list(took)


def one_at_a_time(
    buffers: Mapping[str, Any], step_us: Callable[[Mapping[str, Any]], float], rounds: int, draw: random.Random
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Moves the buffers in turn, each within a region of its own, and keeps a place that is faster than the one before,
    which is timed anew beside it. Returns the places and what was timed.
    """
    pools = {
        name: torch.zeros(-(-b.numel() // LINE) * LINE + _PLACES * LINE, dtype=b.dtype, device=b.device)
        for name, b in buffers.items()
    }
    now, trials = dict(buffers), []
    for _ in range(rounds):
        for name, buffer in buffers.items():
            at = draw.randrange(_PLACES) * LINE
            other = now | {name: pools[name][at : at + buffer.numel()].view(buffer.shape)}
            before, after = step_us(now), step_us(other)
            trials.append({"moved": name, "before_us": before, "after_us": after})
            if after < before:
                now = other
    return now, trials


def findings(kernel: StepKernel, tries: int, places: int, rounds: int) -> Iterator[tuple[str, list[Any]]]:
    """What was changed, and a step each time."""
    chance = Chance(kernel)
    chance.step_us()  # wakes the GPU up
    yield "same", [chance.step_us() for _ in range(tries)]
    yield "weights", [chance.step_us(chance.copies("streams")) for _ in range(tries)]
    yield "caches", [chance.step_us(chance.copies("keys", "values")) for _ in range(tries)]
    loads = []
    for _ in range(_LOADS):
        chance.load_anew()
        loads.append(chance.step_us())
    yield "loads", loads
    yield "ways", chance.ways(places // 2)
    yield "places", chance.places(places)
    buffers = {name: kernel._buffers[name] for name in POLLED}
    found, trials = one_at_a_time(buffers, chance.step_us, rounds, random.Random(1))
    yield "one_at_a_time", trials
    yield "before_and_after", [(chance.step_us(buffers), chance.step_us(found)) for _ in range(tries)]


def main() -> None:
    """Lines for each method and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", action="append", choices=tuple(STORED))
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--tries", type=int, default=6, help="of all but places and loads")
    parser.add_argument("--places", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    environment = collect(DEVICE)
    for method, batch in itertools.product(given.method or ["awq-int4"], given.batch or [1]):
        kernel = on_cuda(loaded(given.model, method, STORED[method]).forward, DEVICE, _ROOM, batch_size=batch)
        about = {"model": given.model, "method": method, "batch": batch}
        for what, values in findings(kernel, given.tries, given.places, given.rounds):
            line = about | {what: values}
            print(line, flush=True)
            append(line | {"kernel_source": source_hash()}, environment, given.out)


if __name__ == "__main__":
    main()
