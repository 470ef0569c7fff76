"""The table as GitHub-flavoured Markdown, for a README or an issue."""

from collections.abc import Sequence

from bitbench.reports import below
from bitbench.reports.columns import columns
from bitbench.reports.groups import Group, groups, headings
from bitbench.results.checks import file_warnings
from bitbench.results.summary import CellSummary


def markdown(summaries: Sequence[CellSummary]) -> str:
    """A section for each table; definitions once at the end."""
    tables = groups(summaries)
    parts = [_section(group) for group in tables] or ["no records\n"]
    warned = [f"- **!** {_escaped(below.warning_line(w, len(summaries)))}" for w in file_warnings(summaries)]
    defined = [f"- **{title}**: {_escaped(text)}" for title, text in below.definitions(below.column_keys(tables))]
    return "\n".join([*parts, *_block("", warned), *_block("Definitions:", defined)]).rstrip() + "\n"


def _section(group: Group) -> str:
    title, *rest = headings(group)
    shown = columns(group)
    head = ["method (kernel)", *(_joined(*column.head) for column in shown)]
    lines = [f"### {_escaped(title)}", "", *(f"{_escaped(line)}  " for line in rest), ""]
    lines += [_line(head), _line(["---", *("---:" for _ in shown)])]
    for row, label in zip(group.rows, group.labels, strict=True):
        name = f"{label} ({row.kernel})" if row.kernel else label
        cells = [column.cell(row) for column in shown]
        if row.status != "ok":
            said = f"{row.status}: {row.reason}" if row.reason else row.status
            cells = [said, *[""] * (len(shown) - 1)] if shown else []
            name = name if shown else f"{name} - {said}"
        lines.append(_line([name, *cells]))
    advised, remarks = below.advice(group)
    spreads = " · ".join(below.spreads(group))
    lines += ["", f"{below.SPREADS_TITLE}: {_escaped(spreads)}"] if spreads else []
    lines += _block("", [f"- **!** {_escaped(w)}" for w in below.warnings(group)])
    lines += _block("", [f"- {_escaped(n)}" for n in below.notes(group)])
    lines += _block("Advice:", [f"- **{_escaped(a.label)}**: {_escaped(a.text)}" for a in advised])
    return "\n".join(lines + [f"- {_escaped(r)}" for r in remarks]) + "\n"


def _joined(above: str, beneath: str) -> str:
    return f"{above[:-1]}{beneath}" if above.endswith("-") else f"{above} {beneath}".strip()


def _block(title: str, items: Sequence[str]) -> list[str]:
    return ["", *([title, ""] if title else []), *items] if items else []


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
