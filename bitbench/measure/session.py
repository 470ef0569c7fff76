"""One process's measurement of a loaded model: check its tokens, warm up, measure, check again."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bitbench.engines.base import LoadedModel
from bitbench.engines.tokens import gaps_below_top
from bitbench.facts.errors import Unsupported
from bitbench.facts.messages import Progress
from bitbench.facts.samples import PromptSample, TokenCheck
from bitbench.facts.workloads import Workload, starting_prompts
from bitbench.measure.gaps import IncorrectOutput, check_share, device_gaps, host_gaps
from bitbench.measure.memory import Meter

# After each shape was met once, warm-up ends when the last three samples lie within 5% of their median, as nvbench and
# pyperf ask for stability and not for a number of repeats; at most 10, or `settle_s`, then the flag `unstable` is set.
WARMUP_AGREEING = 3
WARMUP_SPREAD = 0.05
WARMUP_MOST = 10
# Two numerically different paths (a prompt read at once, a token at a time) may swap near-equal logits. A wrong token
# lies about 4 standard deviations below the top one of 50,000 or more logits; rounding moves it by some 0.01.
TOKEN_TOLERANCE = 0.25
TOKEN_SHARE = 0.95
# A method that rounds what it multiplies to 8 bits makes so much of a last bit that even eager transformers' steps and
# its reading of the same text differ in more tokens. Then no engine is asked for more than those steps reach, less what
# chance makes of two such counts (three standard deviations of their difference), whatever the engine's own steps are;
# and where not even they reach four fifths the check can tell nothing, and fails.
LEAST_EAGER_SHARE = 0.8
_CHANCE = 3.0
_CHECK_OUTPUT_LEN = 8

Report = Callable[[Progress | PromptSample], None]


@dataclass(slots=True)
class Session:
    """Drives one loaded model. `prompts` are the indices of this process; `report` hears of each step.

    Times come from the model's clock, which is the host's unless scripted; `deadline_s` is on CLOCK_MONOTONIC.
    """

    model: LoadedModel
    workload: Workload
    prompts: Sequence[int]
    meter: Meter
    report: Report
    deadline_s: float | None = None
    warmup_output_len: int = 16
    settle_s: float = 20.0
    stable: bool = False
    window_s: tuple[float, float] | None = None
    _outputs: list[tuple[list[int], list[int]]] = field(default_factory=list)
    # Sum of gaps, decode wall time, output_len of each measured prompt of an engine whose clock is the device's.
    _device_times: list[tuple[float, float, int]] = field(default_factory=list)

    def run(self) -> TokenCheck:
        """Check, warm up, measure. Raises IncorrectOutput, Unsupported (context too short) or OutOfMemory."""
        batches = [self.prompt_ids(index) for index in self.prompts]
        self._check_context(batches)
        self._check_before(batches)
        self._warm_up(batches)
        self._measure(batches)
        return self._check_after()

    def prompt_ids(self, index: int) -> list[list[int]]:
        """The token ids of one batch of prompts, [batch][prompt_len]."""
        if self.workload.is_text:
            ids = self.model.encode(starting_prompts()[index].text)
            if ids is not None:
                return [ids]
        return self.workload.token_ids(index, self.model.vocab_size())

    def _check_context(self, batches: Sequence[list[list[int]]]) -> None:
        longest = max(len(batch[0]) for batch in batches) + self.workload.output_len
        most = self.model.context_len()
        if longest > most:
            raise Unsupported(f"prompt and output of {longest} tokens are longer than the model's context of {most}")

    def _check_before(self, batches: Sequence[list[list[int]]]) -> None:
        """Right before fast: a few tokens of two different prompts."""
        self.report(Progress(stage="check", detail="tokens against the model's own forward pass"))
        other = self.workload.token_ids(self.prompts[0] + 7, self.model.vocab_size())
        checked = []
        for batch in (batches[0], other):
            output = self.model.generate(batch, _CHECK_OUTPUT_LEN, None)
            self._check_shape(output, _CHECK_OUTPUT_LEN, self.workload.batch_size)
            checked.append((batch[-1], output[-1]))
        self._check_tokens(checked)

    def _warm_up(self, batches: Sequence[list[list[int]]]) -> None:
        """Meet every prompt and every context length once, then generate until the last few samples agree.

        Libraries plan by shape: cuDNN's attention takes some 36 ms for each new context length (docs/log.md). The
        first time is kept in the record as a warm-up sample.
        """
        shortest = min(range(len(batches)), key=lambda i: len(batches[i][0]))
        longest = max(len(batch[0]) for batch in batches) + self.workload.output_len
        self._warm_sample(shortest, batches, longest - len(batches[shortest][0]))
        for turn in range(len(batches)):
            if turn != shortest and not self._late():
                self._warm_sample(turn, batches, min(2, self.workload.output_len))
        self._settle(batches)

    def _warm_sample(self, turn: int, batches: Sequence[list[list[int]]], output_len: int) -> PromptSample:
        sample, _ = self._time(turn, batches, output_len, warmup=True)
        self.report(sample)
        return sample

    def _settle(self, batches: Sequence[list[list[int]]]) -> None:
        length = max(2, min(self.workload.output_len, self.warmup_output_len))
        times: list[float] = []
        began = time.monotonic()
        for turn in range(WARMUP_MOST):
            sample = self._warm_sample(turn % len(batches), batches, length)
            times.append(sample.tpot_s or sample.total_s)
            last = times[-WARMUP_AGREEING:]
            middle = statistics.median(last)
            if len(last) == WARMUP_AGREEING and max(abs(t - middle) for t in last) <= WARMUP_SPREAD * middle:
                self.stable = True
                return
            if time.monotonic() - began > self.settle_s or self._late():
                return

    def _measure(self, batches: Sequence[list[list[int]]]) -> None:
        self.meter.reset_peak()
        began = time.monotonic()
        for turn in range(len(batches)):
            if turn and self._late():
                break
            sample, output = self._time(turn, batches, self.workload.output_len, warmup=False)
            self._outputs.append((batches[turn][-1], output[-1]))
            self.window_s = (began, time.monotonic())
            self.report(sample)

    def _late(self) -> bool:
        return self.deadline_s is not None and time.monotonic() > self.deadline_s

    def _time(
        self, turn: int, batches: Sequence[list[list[int]]], output_len: int, warmup: bool
    ) -> tuple[PromptSample, list[list[int]]]:
        """Generate one batch under the clock. The total ends after a device-wide synchronisation."""
        model, batch = self.model, batches[turn]
        ticks: list[float] = []
        clock = model.clock
        model.synchronize()
        start = clock()
        output = model.generate(batch, output_len, lambda: ticks.append(clock()))
        model.synchronize()
        end = clock()
        self._check_shape(output, output_len, len(batch))
        gaps = self._gaps(ticks, output_len, end, warmup)
        sample = PromptSample(
            prompt_index=self.prompts[turn],
            warmup=warmup,
            batch_size=len(batch),
            prompt_len=len(batch[0]),
            output_len=output_len,
            started_s=start,
            ttft_s=ticks[0] - start,
            itl_s=gaps,
            total_s=end - start,
        )
        return sample, output

    def _gaps(self, ticks: list[float], output_len: int, end: float, warmup: bool) -> tuple[float, ...]:
        """Between output tokens: by the device's clock where that is the engine's, else by the ticks."""
        reported = self.model.step_times_s()
        if reported is None:
            return host_gaps(ticks, output_len)
        wall_s = end - ticks[0] if ticks else 0.0
        gaps = device_gaps(reported, ticks, output_len, wall_s)
        if not warmup:
            self._device_times.append((sum(gaps), wall_s, output_len))
        return gaps

    def _check_shape(self, output: list[list[int]], output_len: int, batch_size: int) -> None:
        lengths = {len(row) for row in output}
        if len(output) != batch_size or lengths != {output_len}:
            raise IncorrectOutput(
                f"asked for {output_len} tokens of {batch_size} sequences, got {sorted(lengths)} of {len(output)}"
            )
        if any(not 0 <= token < self.model.vocab_size() for row in output for token in row):
            raise IncorrectOutput("the output has token ids outside the vocabulary")

    def _check_after(self) -> TokenCheck:
        self.report(Progress(stage="check", detail="the measured tokens"))
        check_share(self._device_times)
        return self._check_tokens(self._outputs)

    def _check_tokens(self, pairs: Sequence[tuple[list[int], list[int]]]) -> TokenCheck:
        """Compare outputs with the model's own forward pass over prompt and output. Raises IncorrectOutput."""
        gaps = [gap for prompt, output in pairs for gap in self.model.top_gaps([*prompt, *output], len(output))]
        agreeing = _num_agreeing(gaps)
        eager = None
        if agreeing < TOKEN_SHARE * len(gaps):
            eager = self._eager_agreeing(pairs)
            if agreeing < least_agreeing(eager, len(gaps)):
                beside = "" if eager is None else f" (of eager transformers' own, step by step, {eager})"
                found = f"only {agreeing} of {len(gaps)} generated tokens are what the model itself finds most likely"
                raise IncorrectOutput(found + beside)
        return TokenCheck(
            num_positions=len(gaps),
            num_agreeing=agreeing,
            tolerance=TOKEN_TOLERANCE,
            first_tokens=tuple(pairs[0][1][:16]),
            num_agreeing_eager=eager,
        )

    def _eager_agreeing(self, pairs: Sequence[tuple[list[int], list[int]]]) -> int | None:
        """How many tokens agree of those that eager transformers chooses step by step after the same ones."""
        agreeing = 0
        for prompt, output in pairs:
            stepped = self.model.eager_logits(prompt, output)
            if stepped is None:
                return None
            chosen = stepped.argmax(dim=-1).tolist()
            gaps = gaps_below_top(self.model.logits([*prompt, *output], len(output)), chosen)
            agreeing += _num_agreeing(gaps)
        return agreeing


def _num_agreeing(gaps: Sequence[float]) -> int:
    return sum(gap <= TOKEN_TOLERANCE for gap in gaps)  # NaN does not agree


def least_agreeing(eager: int | None, num: int) -> float:
    """How many of `num` tokens must agree with the model's reading where so many of eager transformers' own do, or
    where nothing is known of those.
    """
    if eager is None or not LEAST_EAGER_SHARE * num <= eager < TOKEN_SHARE * num:
        return TOKEN_SHARE * num
    share = eager / num
    return eager - _CHANCE * math.sqrt(2 * num * share * (1 - share))
