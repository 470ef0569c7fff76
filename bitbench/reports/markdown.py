"""The table as GitHub-flavoured Markdown, for a README or an issue."""

from collections.abc import Sequence

from bitbench.reports import below
from bitbench.reports.columns import columns
from bitbench.reports.engines import engines_beside
from bitbench.reports.groups import Group, groups, headings
from bitbench.reports.section import Section
from bitbench.results.checks import file_warnings
from bitbench.results.summary import CellSummary


def markdown(summaries: Sequence[CellSummary]) -> str:
    """A section for each table; definitions once at the end."""
    tables = groups(summaries)
    parts = [_section(group) for group in tables] or ["no records\n"]
    parts += [beside] if (beside := beside_markdown(summaries)) else []
    warned = [f"- **!** {escaped(below.warning_line(w, len(summaries)))}" for w in file_warnings(summaries)]
    defined = [f"- **{title}**: {escaped(text)}" for title, text in below.definitions(below.column_keys(tables))]
    return "\n".join([*parts, *_block("", warned), *_block("Definitions:", defined)]).rstrip() + "\n"


def beside_markdown(summaries: Sequence[CellSummary]) -> str:
    """Engine beside engine, where there are several; empty where there are not."""
    return "\n".join(_beside(section) for section in engines_beside(summaries))


def _beside(section: Section) -> str:
    lines = [f"### {escaped(section.title)}", "", *table_lines(section.head, section.rows)]
    return "\n".join([*lines, *_block("", [escaped(line) for line in section.below])]) + "\n"


def _section(group: Group) -> str:
    title, *rest = headings(group)
    shown = columns(group)
    head = ["method (kernel)", *(_joined(*column.head) for column in shown)]
    lines = [f"### {escaped(title)}", "", *(f"{escaped(line)}  " for line in rest), ""]
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
    lines += ["", f"{below.SPREADS_TITLE}: {escaped(spreads)}"] if spreads else []
    why = " · ".join(below.verdicts(group))
    lines += ["", f"{below.VERDICTS_TITLE}: {escaped(why)}"] if why else []
    texts = " · ".join(below.quality_texts(group))
    lines += ["", f"{below.QUALITY_TITLE}: {escaped(texts)}"] if texts else []
    lines += _block("", [f"- **!** {escaped(w)}" for w in below.warnings(group)])
    lines += _block("", [f"- {escaped(n)}" for n in below.notes(group)])
    lines += _block("Advice:", [f"- **{escaped(a.label)}**: {escaped(a.text)}" for a in advised])
    return "\n".join(lines + [f"- {escaped(r)}" for r in remarks]) + "\n"


def _joined(above: str, beneath: str) -> str:
    return f"{above[:-1]}{beneath}" if above.endswith("-") else f"{above} {beneath}".strip()


def _block(title: str, items: Sequence[str]) -> list[str]:
    return ["", *([title, ""] if title else []), *items] if items else []


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first column is text and whose others are numbers."""
    return [_line(head), _line(["---", *("---:" for _ in head[1:])]), *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def escaped(text: str) -> str:
    """One line that Markdown shows as it is."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
