"""A session checks tokens, warms up until samples agree, and counts all the work. Cheats are caught."""

from itertools import pairwise

import pytest
import torch

from bitbench.engines.fake import FakeModel, Script
from bitbench.facts.errors import Unsupported
from bitbench.facts.messages import Progress
from bitbench.facts.samples import PromptSample
from bitbench.facts.workloads import parse_workload
from bitbench.measure.gaps import IncorrectOutput
from bitbench.measure.memory import NoMeter
from bitbench.measure.session import TOKEN_SHARE, WARMUP_MOST, Session, least_agreeing
from bitbench.methods.registry import parse_method


def make_session(
    script: Script, workload: str = "p40-n32", prompts: tuple[int, ...] = (0, 1, 2)
) -> tuple[Session, list]:
    heard: list[Progress | PromptSample] = []
    model = FakeModel(parse_method("fp16"), script, seed=3)
    return Session(model, parse_workload(workload), prompts, NoMeter(), heard.append), heard


def measured(heard: list) -> list[PromptSample]:
    return [s for s in heard if isinstance(s, PromptSample) and not s.warmup]


def test_times_are_the_scripted_ones():
    session, heard = make_session(Script(tpot_s=0.01, ttft_s=0.05, spread_within=0, spread_between=0))
    check = session.run()
    samples = measured(heard)
    assert [s.prompt_index for s in samples] == [0, 1, 2]
    for sample in samples:
        assert sample.ttft_s == pytest.approx(0.05)
        assert sample.tpot_s == pytest.approx(0.01)
        assert len(sample.itl_s) == 31
        assert sample.prompt_len == 40
    assert check.num_agreeing == check.num_positions == 3 * 32


def test_warm_up_ends_when_samples_agree_and_says_when_they_do_not():
    steady, heard = make_session(Script(tpot_s=0.01, spread_within=0))
    steady.run()
    assert steady.stable
    assert len(settling(heard)) == 3
    wild, heard = make_session(Script(tpot_s=0.01, spread_within=0.8))
    wild.run()
    assert not wild.stable
    assert len(settling(heard)) == WARMUP_MOST


def settling(heard: list) -> list[PromptSample]:
    """Warm-up samples after the shapes were met once: the same length each."""
    return [s for s in heard if isinstance(s, PromptSample) and s.warmup and s.output_len == 16]


def test_every_prompt_and_every_context_length_is_met_before_it_is_timed():
    session, heard = make_session(Script(), "starting-20x32", prompts=(3, 4, 5, 6))
    session.run()
    first_measured = next(i for i, s in enumerate(heard) if isinstance(s, PromptSample) and not s.warmup)
    met = [s for s in heard[:first_measured] if isinstance(s, PromptSample)]
    contexts = {length for s in met for length in range(s.prompt_len, s.prompt_len + s.output_len)}
    for sample in measured(heard):
        assert sample.prompt_index in {s.prompt_index for s in met}
        assert set(range(sample.prompt_len, sample.prompt_len + sample.output_len)) <= contexts
    assert len({s.prompt_len for s in measured(heard)}) > 1


def test_work_left_running_is_counted():
    session, heard = make_session(Script(tpot_s=0.01, ttft_s=0.05, spread_within=0, spread_between=0, cheat="async"))
    session.run()
    for sample in measured(heard):
        assert sample.total_s > 0.05 + 31 * 0.01
        assert sample.tpot_s >= 0.01


@pytest.mark.parametrize(
    ("cheat", "message"),
    [("stale", "most likely"), ("short", "asked for 8 tokens")],
)
def test_wrong_output_is_caught(cheat: str, message: str):
    session, heard = make_session(Script(cheat=cheat))
    with pytest.raises(IncorrectOutput, match=message):
        session.run()
    assert not measured(heard)


def test_an_engine_that_goes_wrong_after_the_first_check_is_caught():
    session, _ = make_session(Script())
    honest = session.model.generate

    def later_wrong(ids, output_len, on_token):
        new = honest(ids, output_len, on_token)
        return new if output_len < 32 else [[7] * output_len for _ in new]

    session.model.generate = later_wrong
    with pytest.raises(IncorrectOutput, match="of 96 generated"):
        session.run()


def test_too_few_ticks_are_caught():
    session, _ = make_session(Script())
    honest = session.model.generate
    session.model.generate = lambda ids, output_len, on_token: honest(ids, output_len, None)
    with pytest.raises(IncorrectOutput, match="told of 0 tokens"):
        session.run()


class DeviceClockModel(FakeModel):
    """The fake with the device's clock: one tick, and gaps reported afterwards, `factor` times the true ones."""

    def __init__(self, factor: float = 1.0, drop: int = 0, ticks: int = 1) -> None:
        super().__init__(parse_method("fp16"), Script(tpot_s=0.01, ttft_s=0.05, spread_within=0, spread_between=0), 3)
        self.factor, self.drop, self.num_ticks = factor, drop, ticks
        self.marks: list[float] = []

    def generate(self, ids, output_len, on_token):
        self.marks = []

        def mark():
            self.marks.append(self.clock())
            if on_token and len(self.marks) <= self.num_ticks:
                on_token()

        return super().generate(ids, output_len, mark)

    def step_times_s(self):
        return tuple((b - a) * self.factor for a, b in pairwise(self.marks))[self.drop :]


def device_session(model: DeviceClockModel, workload: str = "p40-n32") -> tuple[Session, list]:
    heard: list[Progress | PromptSample] = []
    return Session(model, parse_workload(workload), (0, 1, 2), NoMeter(), heard.append), heard


def test_a_device_engine_ticks_once_and_its_gaps_are_the_ones_it_reports():
    session, heard = device_session(DeviceClockModel(factor=0.9))
    session.run()
    for sample in measured(heard):
        assert sample.ttft_s == pytest.approx(0.05)
        assert sample.itl_s == pytest.approx((0.009,) * 31)
        assert sample.tpot_s == pytest.approx(0.01)  # the host's wall time, not the gaps


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (DeviceClockModel(factor=1.2), "by the host's clock"),
        (DeviceClockModel(factor=0.3), "are 30% of the time that passed"),
        (DeviceClockModel(factor=0.0), "no positive times"),
        (DeviceClockModel(factor=float("nan")), "no positive times"),
        (DeviceClockModel(drop=1), "gaps between"),
        (DeviceClockModel(ticks=2), "told of 2 first tokens"),
        (DeviceClockModel(ticks=0), "told of 0 first tokens"),
    ],
)
def test_a_device_engine_whose_gaps_cannot_be_true_is_caught(model: DeviceClockModel, message: str):
    session, _ = device_session(model)
    with pytest.raises(IncorrectOutput, match=message):
        session.run()


def test_outputs_too_short_for_the_hosts_costs_to_be_small_are_not_judged_by_them():
    session, heard = device_session(DeviceClockModel(factor=0.3), "p40-n8")
    session.run()
    assert len(measured(heard)) == 3


def test_nan_logits_do_not_pass():
    session, _ = make_session(Script())
    session.model.top_gaps = lambda ids, num_last: [float("nan")] * num_last
    with pytest.raises(IncorrectOutput):
        session.run()


def test_context_too_short():
    session, _ = make_session(Script(), "p8000-n500")
    with pytest.raises(Unsupported, match="8500 tokens are longer than the model's context of 8192"):
        session.run()


def test_deadline_leaves_one_measured_prompt():
    session, heard = make_session(Script())
    session.deadline_s = 0.0
    session.run()
    assert len(measured(heard)) == 1


class Noisy(FakeModel):
    """Every so many-th token that it generates, and another of those that eager transformers would choose, is wrong."""

    every, eager_every = 10, 10

    def generate(self, ids, output_len, on_token):
        rows = super().generate(ids, output_len, on_token)
        return [[self._wrong(t) if i % self.every == 1 else t for i, t in enumerate(row)] for row in rows]

    def top_gaps(self, ids, num_last):
        """By its own generation, so that what follows a wrong token is right again."""
        right = super().generate([ids[:-num_last]], num_last, None)[0]
        return [0.0 if t == r else 3.0 for t, r in zip(ids[-num_last:], right, strict=True)]

    def logits(self, ids, num_last):
        right = super().generate([ids[:-num_last]], num_last, None)[0]
        return self._of(right)

    def eager_logits(self, prompt_ids, forced_ids):
        if not self.eager_every:
            return None
        right = super().generate([prompt_ids], len(forced_ids), None)[0]
        return self._of([self._wrong(t) if i % self.eager_every == 2 else t for i, t in enumerate(right)])

    def _wrong(self, token):
        return (token + 1) % self.vocab_size()

    def _of(self, tokens):
        logits = torch.randn(len(tokens), self.vocab_size(), generator=torch.Generator().manual_seed(1))
        logits[range(len(tokens)), tokens] = 50.0
        return logits


@pytest.mark.parametrize(
    ("every", "eager_every", "passes"),
    [
        (10, 10, True),  # as noisy as eager transformers
        (10, 9, True),  # less noisy than that
        (10, None, False),  # nothing to compare with
        (10, 100, False),  # eager transformers is not noisy
        (10, 4, False),  # nor is 75% a measure
        (3, 10, False),  # far worse than eager transformers
    ],
)
def test_no_engine_is_asked_for_more_agreement_than_eager_transformers_reaches(every, eager_every, passes):
    heard: list = []
    model = Noisy(parse_method("bnb-int8-t0"), Script(), seed=3)
    model.every, model.eager_every = every, eager_every
    session = Session(model, parse_workload("p40-n100"), (0, 1, 2), NoMeter(), heard.append)
    if not passes:
        with pytest.raises(IncorrectOutput, match="generated tokens are what the model itself finds most likely"):
            session.run()
        return
    check = session.run()
    assert check.num_positions == 300
    assert check.num_agreeing == 300 - 3 * 10
    assert check.num_agreeing_eager == 300 - 3 * len(range(2, 100, eager_every))


def test_what_chance_makes_of_two_counts_is_allowed_and_no_more():
    """Against the binomial distribution itself: of two equally noisy engines one in some hundreds is called wrong."""
    num, share = 384, 0.9245
    assert least_agreeing(None, num) == least_agreeing(num, num) == TOKEN_SHARE * num
    assert least_agreeing(round(0.79 * num), num) == TOKEN_SHARE * num
    draws = torch.distributions.Binomial(num, torch.tensor(share)).sample((2, 20_000)).tolist()
    pairs = [(one, eager) for one, eager in zip(*draws, strict=True) if one < TOKEN_SHARE * num > eager]
    wrong = sum(one < least_agreeing(int(eager), num) for one, eager in pairs)
    assert 0 < wrong < 0.004 * len(pairs)
