"""What `bitbench explain` prints: each row's step as a bar, its verdict and what it rests on; then what was tested."""

from collections.abc import Sequence

from rich.text import Text

from bitbench.explain.experiments import Experiment
from bitbench.explain.rows import Explained
from bitbench.explain.step import Part, bar
from bitbench.reports import why
from bitbench.reports.groups import groups, headings
from bitbench.reports.lines import DEFAULT_WIDTH, MIN_WIDTH, Lines

_INDENT = "   "
_LEAST_NAME = 16
_SHADES = {
    "ceiling": ("█", "green"),
    "rest of": ("▓", "yellow"),
    "gaps": ("▒", "magenta"),
    "GPU idle": ("░", "red"),
    "outside operators": ("░", "red"),
    "": ("·", "dim"),
}
"""By how a part's name begins, the first that fits: what a bar is drawn with."""


def explanation(explained: Sequence[Explained], tested: Sequence[Experiment], width: int = DEFAULT_WIDTH) -> Text:
    """The explanation for a terminal of `width` columns."""
    lines = Lines(max(width, MIN_WIDTH))
    by_row = {id(e.row): e for e in explained}
    tables = groups([e.row for e in explained])
    for group in tables:
        for number, heading in enumerate(headings(group)):
            lines.wrapped(heading, "", "bold" if number == 0 else "", indent=2)
        for row, label in zip(group.rows, group.labels, strict=True):
            lines.add("")
            _row(lines, by_row[id(row)], label)
        lines.add("")
    for experiment in tested:
        _tested(lines, experiment)
    for line in why.missing(explained):
        lines.wrapped(line, " ! ", "yellow")
    lines.text.rstrip()
    return lines.text


def _row(lines: Lines, explained: Explained, label: str) -> None:
    lines.wrapped(why.title(explained, label), " ", "bold" if explained.row.status == "ok" else "red")
    if explained.step is None:
        return
    _bar(lines, explained)
    if explained.decode:
        lines.wrapped(explained.decode.sentence, _INDENT)
        for line in explained.decode.evidence:
            lines.wrapped(line, f"{_INDENT}- ")
    if kernels := why.kernels(explained):
        room = max(_LEAST_NAME, lines.width - len(_INDENT) - why.KERNEL_COLUMNS_WIDTH)
        lines.columns(
            why.kernel_head(explained), [(why.shortened(name, room), *rest) for name, *rest in kernels], _INDENT
        )
    if account := why.account_lines(explained):
        lines.wrapped(account, _INDENT)
        lines.columns(why.GAP_HEAD, why.gap_rows(explained), _INDENT)
    for name, text in why.conclusions(explained):
        lines.wrapped(text, f"{_INDENT}{name}: ", indent=len(_INDENT) + 2)


def _bar(lines: Lines, explained: Explained) -> None:
    assert explained.step is not None
    parts = bar(explained.step)
    lines.text.append(_INDENT)
    for part, length in zip(parts, lengths(parts, lines.width - 2 * len(_INDENT)), strict=True):
        shade, style = _shade(part)
        lines.text.append(shade * length, style=style)
    lines.text.append("\n")
    told = (f"{_shade(part)[0]} {why.part(part, explained.step)}" for part in parts if part.seconds)
    lines.wrapped(" | ".join(told), _INDENT)


def _shade(part: Part) -> tuple[str, str]:
    return next(shade for beginning, shade in _SHADES.items() if part.name.startswith(beginning))


def lengths(parts: Sequence[Part], width: int) -> list[int]:
    """Characters of each part of a bar, `width` together; a part that takes any time has one at least."""
    total = sum(part.seconds for part in parts)
    found = [max(1, int(width * part.seconds / total)) if part.seconds > 0 else 0 for part in parts]
    longest = found.index(max(found))
    found[longest] += width - sum(found)
    return found


def _tested(lines: Lines, experiment: Experiment) -> None:
    lines.wrapped(why.experiment_title(experiment), " ", "bold")
    lines.columns(experiment.head, experiment.lines, _INDENT)
    lines.wrapped(experiment.finding, f"{_INDENT}finding: ", indent=len(_INDENT) + 2)
    lines.add("")
