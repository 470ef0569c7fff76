"""What stands under a table: warnings with advice, notes, advice per row, definitions. Plain lines; formats dress
them.
"""

from collections.abc import Collection, Sequence

from bitbench.explain.cause import find
from bitbench.reports.advice import Advice, advise, remarks
from bitbench.reports.columns import columns
from bitbench.reports.groups import Group
from bitbench.results import units
from bitbench.results.checks import Warned, table_warnings
from bitbench.results.metrics import METRICS

VERDICTS_TITLE = "what sets the speed (bitbench explain FILE)"
QUALITY_TITLE = "quality (bitbench show FILE --quality)"
SPREADS_TITLE = "spread of TPOT within a process / between processes, %"


def spreads(group: Group) -> list[str]:
    """`row within/between` for each row that knows one of them."""
    return [
        f"{label} {units.percent(row.spread_within)} / {units.percent(row.spread_between)}"
        for row, label in zip(group.rows, group.labels, strict=True)
        if row.spread_within is not None or row.spread_between is not None
    ]


def verdicts(group: Group) -> list[str]:
    """`row verdict (GPU busy 13 %)` for each row with a profile."""
    told = []
    for row, label in zip(group.rows, group.labels, strict=True):
        profile, found = row.profile("decode"), find(row, "decode", group.rows)
        if found and profile and profile.source != "none":
            busy = f" (GPU busy {units.percent(row.gpu_busy)} %)" if row.gpu_busy is not None else ""
            told.append(f"{label} {found.kind}{busy}")
    return told


def quality_texts(group: Group) -> list[str]:
    """What the figures of quality were read from, each text once, with its rows where they differ."""
    about: dict[str, list[str]] = {}
    for row, label in zip(group.rows, group.labels, strict=True):
        if row.quality:
            about.setdefault(row.quality.text, []).append(label)
    return list(about) if len(about) == 1 else [f"{', '.join(who)}: {text}" for text, who in about.items()]


def warning_line(warned: Warned, num_rows: int) -> str:
    """`title (rows and details): advice`, rows with the same detail together."""
    by_detail: dict[str, list[str]] = {}
    for label, detail in warned.details:
        by_detail.setdefault(detail, []).append(label)
    told = "; ".join(_told(labels, detail, num_rows) for detail, labels in by_detail.items())
    return f"{warned.title}{f' ({told})' if told else ''}: {warned.advice}"


def _told(labels: Sequence[str], detail: str, num_rows: int) -> str:
    who = "all rows" if len(labels) == num_rows > 1 else ", ".join(label for label in labels if label)
    return f"{who}: {detail}" if who and detail else who or detail


def warnings(group: Group) -> list[str]:
    """The warnings that apply to this table."""
    return [
        warning_line(warned, sum(row.status == "ok" for row in group.rows)) for warned in table_warnings(group.rows)
    ]


def notes(group: Group) -> list[str]:
    """What the checkpoints say about themselves, each once, with the rows it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for row, label in zip(group.rows, group.labels, strict=True):
        for note in row.notes:
            about.setdefault(note, []).append(label)
    return [n if len(who) == len(group.rows) else f"{', '.join(who)}: {n}" for n, who in about.items()]


def advice(group: Group) -> tuple[list[Advice], list[str]]:
    """The advice per row and what holds for all of it."""
    return advise(group), remarks(group)


def definitions(keys: Collection[str]) -> list[tuple[str, str]]:
    """(title, definition) of the figures with these keys, in the order of METRICS; the spreads' among them."""
    wanted = {*keys, "spread_within", "spread_between"} if keys else set()
    return [(m.title, m.definition) for m in METRICS.values() if m.key in wanted]


def column_keys(shown: Sequence[Group]) -> set[str]:
    """The metrics that at least one of these tables shows."""
    return {column.key for group in shown for column in columns(group)}
