"""Measures block sizes of the Triton decode steps on the GPU at hand (`bitbench tune`).

Whole steps are timed, as they are replayed, by CUDA events: one number of one kernel is changed at a time, and kept
where the median step is faster.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
import triton

from bitbench.decode.triton_steps import TritonSteps
from bitbench.decode.tuning import Blocks, Tuning

NUM_STEPS = 50
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

    def __init__(
        self, steps: TritonSteps, context: int, num_steps: int, told: Callable[[str], None] = lambda _: None
    ) -> None:
        vocab = steps.all_logits().shape[1]
        generator = torch.Generator().manual_seed(0)
        self._ids = torch.randint(0, vocab, (steps.batch_size, context), generator=generator).tolist()
        self._steps, self._num_steps, self._told = steps, num_steps, told
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
            self._told(f"left out: {(str(error).splitlines() or [type(error).__name__])[0]}")
            return float("inf")
        found = self._logits()
        if not torch.allclose(found, self._expected, atol=0.02 * float(self._expected.std()), rtol=0):
            raise RuntimeError(f"wrong logits with {tuning}")
        self._steps.advance(self._num_steps)
        return statistics.median(self._steps.step_times_s())


def search(
    steps: TritonSteps,
    context: int,
    start: Tuning | None,
    told: Callable[[str], None],
    *,
    num_steps: int = NUM_STEPS,
) -> Tuning:
    """The fastest block sizes for these steps after so many tokens, from `start` or those in use on. `told` hears of
    each finding. The steps need room for `num_steps` and two more.
    """
    clock, tuning = Clock(steps, context, num_steps, told), start or steps.tuning
    before_s = after_s = clock.seconds(tuning)
    for key in sorted(steps.product_keys()):
        tuning, after_s = best(tuning, partial(neighbours, key=key), clock.seconds, steps.compile)
        told(f"{key}: {tuning.products[key]}, {after_s * 1e6:.1f} us")
    tuning, after_s = best(tuning, attending, clock.seconds, steps.compile)
    told(f"{tuning.attending}, {tuning.parts_per_sm} parts to a multiprocessor, norms {tuning.norm_warps} warps")
    told(f"a step: {before_s * 1e6:.1f} us before, {after_s * 1e6:.1f} us after")
    return replace(tuning, measured=tuning.measured | steps.product_keys())
