"""A step's time as a picture (SVG): a bar for each row, with the parts that `explain` tells apart.

The tables with the longest steps come first. All bars are on one scale, but a table whose steps are much shorter is
drawn some whole number of times as wide, and says so.
"""

from collections.abc import Mapping, Sequence
from html import escape

from bitbench.explain.rows import Explained
from bitbench.explain.step import Step, bar
from bitbench.reports.groups import Group, groups, headings
from bitbench.results import units

_WIDTH, _LEFT, _RIGHT = 1000, 230, 190
_ROW, _BAR, _HEAD = 26, 16, 30
_MUCH_SHORTER = 5
# By how a part's name begins: what the hardware needs, what it does beyond that, and when nothing runs.
_COLOURS = {"ceiling": "#1a7f64", "rest of": "#e0a030", "gaps": "#9a9a9a", "not known": "#e4e4e4", "": "#d65f5f"}


def picture(explained: Sequence[Explained]) -> str:
    """The rows that have a step's time, group by group. Raises ValueError where there is none."""
    by_row = {id(e.row): e for e in explained}
    longest = max((e.step.time_s for e in explained if e.step), default=None)
    if longest is None:
        raise ValueError("no row has a step's time to draw")
    parts: list[str] = []
    y = 8
    for group in sorted(groups([e.row for e in explained]), key=lambda group: -_longest(group, by_row)):
        if not (mine := _longest(group, by_row)):
            continue
        times = int(longest / mine) if longest / mine >= _MUCH_SHORTER else 1
        told = f" · drawn {times} times as wide" if times > 1 else ""
        parts.append(_text(8, y + 18, headings(group)[0] + told, "font-weight='bold'"))
        y += _HEAD
        for row, label in zip(group.rows, group.labels, strict=True):
            if step := by_row[id(row)].step:
                parts += _row(y, label, step, times * (_WIDTH - _LEFT - _RIGHT) / longest)
                y += _ROW
        y += 10
    names = dict.fromkeys(part.name for e in explained if e.step for part in bar(e.step) if part.seconds)
    for number, name in enumerate(names):
        x = 8 + _WIDTH // 4 * (number % 4)
        parts.append(f"<rect x='{x}' y='{y + 20 * (number // 4)}' width='12' height='12' fill='{_colour(name)}'/>")
        parts.append(_text(x + 18, y + 20 * (number // 4) + 11, name))
    height = y + 20 * -(-len(names) // 4) + 6
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' width='{_WIDTH}' "
            f"height='{height}' font-family='sans-serif' font-size='13'>",
            f"<rect width='{_WIDTH}' height='{height}' fill='#ffffff'/>",
            *parts,
            "</svg>",
        ]
    )


def _longest(group: Group, by_row: Mapping[int, Explained]) -> float:
    """The longest step of a table, seconds; 0 without any."""
    return max((step.time_s for row in group.rows if (step := by_row[id(row)].step)), default=0.0)


def _row(y: int, label: str, step: Step, scale: float) -> list[str]:
    drawn, x = [_text(_LEFT - 8, y + 13, label, "text-anchor='end'")], float(_LEFT)
    for part in bar(step):
        width = part.seconds * scale
        if width > 0:
            told = escape(f"{part.name}: {units.duration(part.seconds)}, {step.share(part.seconds):.1%}")
            drawn.append(
                f"<rect x='{x:.2f}' y='{y}' width='{width:.2f}' height='{_BAR}' fill='{_colour(part.name)}'>"
                f"<title>{told}</title></rect>"
            )
        x += width
    share = (
        "" if step.ceiling_s is None else f", ceiling {units.percent(step.share(min(step.ceiling_s, step.time_s)))} %"
    )
    return [*drawn, _text(x + 6, y + 13, f"{units.duration(step.time_s)}{share}")]


def _colour(name: str) -> str:
    return next(colour for beginning, colour in _COLOURS.items() if name.startswith(beginning))


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y}' fill='#222222' {more}>{escape(text)}</text>"
