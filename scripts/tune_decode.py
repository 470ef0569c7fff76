"""Measures block sizes of the Triton decode steps on the GPU at hand, and keeps the fastest for the decoder.

Whole steps are timed, as they are replayed, by CUDA events: one number of one kernel is changed at a time, and kept
where the median step is faster. Prints a line for each change that is, and the step's time before and after.

    python scripts/tune_decode.py MODEL_FOLDER --method fp16 --batch 1 --batch 8
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import triton

from bitbench.decode import METHODS, load
from bitbench.decode.triton_steps import TritonSteps, on_cuda
from bitbench.decode.tuning import Blocks, Tuning, file, keep

DEVICE = "cuda:0"
# Less of a gain is noise.
LEAST_GAIN = 0.005
WARPS, STAGES = (1, 2, 4, 8), (1, 2, 3, 4)


def neighbours(tuning: Tuning, key: str) -> Iterator[Tuning]:
    """Tunings with another number for one of the products."""
    now = tuning.products[key]
    many, words = " many " in key, key.startswith("int4")
    choices = {
        "rows": (16, 32, 64, 128) if many else (1, 2, 4, 8, 16, 32),
        "elements": (16, 32, 64, 128, 256) if words else (32, 64, 128, 256, 512, 1024, 2048),
        "num_warps": WARPS,
        "num_stages": STAGES,
    }
    for name, values in choices.items():
        for value in values:
            blocks: Blocks = replace(now, **{name: value})
            if value != getattr(now, name) and 256 <= blocks.rows * blocks.elements <= 16_384:
                yield replace(tuning, products=tuning.products | {key: blocks})


def attending(tuning: Tuning) -> Iterator[Tuning]:
    """Tunings with another number for attention or norms."""
    choices = {"positions": (16, 32, 64, 128), "num_warps": WARPS, "num_stages": STAGES}
    for name, values in choices.items():
        for value in values:
            yield replace(tuning, attending=replace(tuning.attending, **{name: value}))
    for value in (1, 2, 4, 8):
        yield replace(tuning, parts_per_sm=value)
        yield replace(tuning, norm_warps=value)


def best(
    start: Tuning,
    around: Callable[[Tuning], Iterator[Tuning]],
    seconds: Callable[[Tuning], float],
    prepare: Callable[[Sequence[Tuning]], None] = lambda _: None,
    rounds: int = 3,
) -> tuple[Tuning, float]:
    """Walk to the fastest neighbour until none is faster, at most so many times; and the time there.

    `prepare` hears which tunings will be timed next.
    """
    found, time_s = start, seconds(start)
    for _ in range(rounds):
        others = list(around(found))
        prepare(others)
        timed = [(seconds(other), other) for other in others]
        fastest_s, fastest = min(timed, key=lambda pair: pair[0])
        if fastest_s > time_s * (1 - LEAST_GAIN):
            break
        found, time_s = fastest, fastest_s
    return found, time_s


class Clock:
    """Times the steps of one model at one batch size, and sees to it that their logits stay what they were."""

    def __init__(self, steps: TritonSteps, context: int, num_steps: int) -> None:
        vocab = steps.all_logits().shape[1]
        generator = torch.Generator().manual_seed(0)
        self._ids = torch.randint(0, vocab, (steps.batch_size, context), generator=generator).tolist()
        self._steps, self._num_steps = steps, num_steps
        self._expected = self._logits()

    def _logits(self) -> torch.Tensor:
        self._steps.start_all(self._ids)
        self._steps.advance(1)
        return self._steps.all_logits().clone()

    def seconds(self, tuning: Tuning) -> float:
        """Of a step, the median; infinite where the blocks do not fit the GPU, or the compiler."""
        self._steps.use(tuning)
        try:
            self._steps.capture()
        except (triton.runtime.errors.OutOfResources, triton.CompilationError, RuntimeError) as error:
            print("left out:", str(error).split("\n")[0], flush=True)
            return float("inf")
        found = self._logits()
        if not torch.allclose(found, self._expected, atol=0.02 * float(self._expected.std()), rtol=0):
            raise RuntimeError(f"wrong logits with {tuning}")
        self._steps.advance(self._num_steps)
        return statistics.median(self._steps.step_times_s())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--method", action="append", choices=tuple(METHODS))
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--dry-run", action="store_true", help="keep nothing")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_properties(DEVICE).name
    tuning = None
    for method in arguments.method or ["fp16"]:
        decoder = load(arguments.folder, method, DEVICE)
        for batch in arguments.batch or [1]:
            room = arguments.context + arguments.steps + 2
            steps = on_cuda(decoder.forward, DEVICE, room, batch)
            clock, tuning = Clock(steps, arguments.context, arguments.steps), tuning or steps.tuning
            before_s = after_s = clock.seconds(tuning)
            for key in sorted(steps.product_keys()):
                tuning, after_s = best(tuning, lambda t, k=key: neighbours(t, k), clock.seconds, steps.compile)
                print(method, batch, key, tuning.products[key], f"{after_s * 1e6:.1f} us", flush=True)
            tuning, after_s = best(tuning, attending, clock.seconds, steps.compile)
            print(method, batch, tuning.attending, tuning.parts_per_sm, tuning.norm_warps, flush=True)
            print(method, batch, f"step: {before_s * 1e6:.1f} us before, {after_s * 1e6:.1f} us after", flush=True)
    if tuning and not arguments.dry_run:
        keep(name, replace(tuning, measured=True))
        print(f"kept for {name} in {file()}")


if __name__ == "__main__":
    main()
