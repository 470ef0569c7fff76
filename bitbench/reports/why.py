"""The sentences and small tables of an explanation, dressed by explanation.py and explanation_markdown.py."""

from collections.abc import Sequence

from bitbench.explain.account import Item
from bitbench.explain.counterfactual import Counterfactual
from bitbench.explain.experiments import Experiment
from bitbench.explain.rows import Explained
from bitbench.explain.step import Part, Step
from bitbench.explain.verdict import Verdict
from bitbench.facts.profile import Stage
from bitbench.facts.status import Flag
from bitbench.results import units
from bitbench.results.summary import CellSummary

NUM_KERNELS = 5
_KERNEL_COLUMNS = ("role", "launches", "us each", "ms", "% of step")
KERNEL_COLUMNS_WIDTH = 60
"""What the other columns of that table take, gaps included."""

_DOUBTFUL: tuple[Flag, ...] = ("busy_host", "busy_device", "throttled", "unstable")
"""Flags of a time that may not be the row's own."""

GAP_HEAD = ("from the ceiling to this step, us", "kernels", "busy", "its bytes", "gap")


def title(explained: Explained, label: str) -> str:
    """The row, its verdict and its speed; or how it failed."""
    row = explained.row
    name = f"{label} ({row.kernel})" if row.kernel else label
    if row.status != "ok":
        return " ".join(f"{name}: {row.status}{f': {row.reason}' if row.reason else ''}".split())
    kind = explained.decode.kind if explained.decode else "no verdict"
    if row.tpot_s is None:
        return f"{name}: {kind}, one new token was asked for"
    speed = f"{units.significant(row.decode_tokens_per_s)} tok/s, {units.duration(row.tpot_s)} a step"
    return f"{name}: {kind} · {speed}"


def part(of: Part, step: Step) -> str:
    """A part of the bar with its time and share."""
    return f"{of.name} {units.duration(of.seconds)}, {units.percent(step.share(of.seconds))} %"


def kernel_head(explained: Explained) -> tuple[str, ...]:
    """The head of the table of kernels; on a CPU of operators."""
    on_cpu = explained.step is not None and explained.step.on_cpu
    return (f"costliest {'operators' if on_cpu else 'kernels'}", *_KERNEL_COLUMNS)


def kernels(explained: Explained) -> list[tuple[str, ...]]:
    """The costliest kernels of a step, a row of kernel_head each."""
    step = explained.step
    if step is None or step.profile is None:
        return []
    costliest = sorted(step.profile.kernels, key=lambda k: -k.busy_s)[:NUM_KERNELS]
    return [
        (
            k.name,
            k.role,
            units.per_step(k.num_launches),
            units.significant(k.busy_s / k.num_launches * 1e6 if k.num_launches else None),
            units.milliseconds(k.busy_s),
            units.percent(step.share(k.busy_s)),
        )
        for k in costliest
    ]


def shortened(name: str, room: int) -> str:
    """A kernel's name in `room` characters: its beginning and its end tell more than its middle."""
    name = " ".join(name.split()).removeprefix("void ")
    if len(name) <= room:
        return name
    end = max(0, (room - 1) // 3)
    return f"{name[: room - 1 - end]}…{name[len(name) - end :] if end else ''}"


def account_lines(explained: Explained) -> str:
    """TPOT = busy + gaps + residual; empty where the step is not repeated from a graph."""
    a = explained.account
    if a is None:
        return ""
    gaps = f" + {units.count(a.num_kernels)} kernels x {units.duration(a.node_gap_s)} between two"
    between = f"{gaps} = {units.duration(a.sum_s)}" if a.num_kernels >= 1 else ""
    said = "the step is accounted for" if a.holds else "the step is NOT accounted for: do not trust its parts"
    return (
        f"account: {units.duration(a.busy_s)} busy{between} of {units.duration(a.tpot_s)} measured, "
        f"{units.duration(a.residual_s)} ({units.percent(a.residual)} %) unexplained: {said}"
    )


def gap_rows(explained: Explained) -> list[tuple[str, ...]]:
    """The items of the gap to the ceiling, a row of GAP_HEAD each, and their sum."""
    if not explained.gap:
        return []
    whole = Item("step - ceiling", sum(item.seconds for item in explained.gap))
    return [
        (
            item.name,
            units.UNKNOWN if item.num_kernels is None else units.per_step(item.num_kernels),
            _microseconds(item.busy_s),
            _microseconds(item.bytes_s),
            _microseconds(item.seconds),
        )
        for item in (*explained.gap, whole)
    ]


def _microseconds(seconds: float | None) -> str:
    return units.UNKNOWN if seconds is None else f"{seconds * 1e6:,.0f}"


def conclusions(explained: Explained) -> list[tuple[str, str]]:
    """(heading, text): without the host, the prefill, what is to be known of the profile, what to do."""
    told = [_without_host(c) for c in explained.without_host]
    row = explained.row
    if explained.prefill and row.ttft_s:
        told.append(("prefill", _prefill(explained, explained.prefill, row.ttft_s)))
    told += [("profile", note) for note in notes(row)]
    if doubts := [flag for flag in row.flags if flag in _DOUBTFUL]:
        told.append(("beware", f"this row is marked {', '.join(doubts)}; bitbench show says what to do about it"))
    if explained.decode:
        told.append(("what to do", explained.decode.advice))
    return told


def _without_host(of: Counterfactual) -> tuple[str, str]:
    if of.engine is None:
        most = f"would allow at most {units.significant(of.tokens_per_s)} tok/s, {units.ratio(of.speedup)} (estimate)"
        return "GPU busy alone", most
    if of.tokens_per_s is None:
        return f"engine {of.engine}", f"could not run this: {of.reason}"
    faster = f"{units.ratio(of.speedup)}{units.interval(of.interval)} as fast"
    return f"engine {of.engine}", f"{units.significant(of.tokens_per_s)} tok/s measured on the same weights, {faster}"


def _prefill(explained: Explained, prefill: Verdict, ttft_s: float) -> str:
    """In full only where it says something else than decoding."""
    if explained.decode and explained.decode.kind == prefill.kind:
        busy = next((line for line in prefill.evidence if line.startswith("kernels ran")), "")
        return f"{prefill.kind} too, {units.duration(ttft_s)}{f'; {busy}' if busy else ''}"
    return f"{prefill.kind}, {units.duration(ttft_s)}. {prefill.sentence}"


def notes(row: CellSummary) -> list[str]:
    """What the profiled passes say is missing, each once, the stage named where only one says it."""
    stages: tuple[Stage, ...] = ("decode", "prefill")
    found: dict[str, list[str]] = {}
    for stage in stages:
        profile = row.profile(stage)
        text = profile.note or "no time could be seen" if profile and profile.source == "none" else ""
        if profile and (profile.note or text):
            found.setdefault(profile.note or text, []).append(stage)
    return [note if len(where) == 2 else f"{where[0]}: {note}" for note, where in found.items()]


def missing(explained: Sequence[Explained]) -> list[str]:
    """One line that says which rows lack a profile and how to get one; none where all have it."""
    lacking = [e.row for e in explained if e.row.tpot_s and (e.step is None or e.step.profile is None)]
    if not lacking:
        return []
    several = len({row.table_key for row in lacking}) > 1
    names = dict.fromkeys(f"{row.method} on {row.engine}" if several else row.method for row in lacking)
    who = "all rows" if len(lacking) == len(explained) > 1 else ", ".join(names)
    return [f"no profile ({who}): what takes the time is not known; bitbench run ... --profile measures it"]


def experiment_title(experiment: Experiment) -> str:
    """What was varied and what stayed equal."""
    return f"what was tested: {experiment.varied}, {experiment.about}"
