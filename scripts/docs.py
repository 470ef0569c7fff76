"""Writes the pages that follow from the code and the records. `--check` only compares.

docs/commands.md, docs/methods.md, docs/metrics.md and docs/step-time.svg are written whole. In README.md and docs/*.md
a block `<!-- table FILE -->` ... `<!-- /table -->` is filled with the table of that record file, so that every figure
there comes from a record. `<!-- table FILE quality -->` is quality in full; `<!-- table FILE engines -->` engine beside
engine; `<!-- table FILE calibration -->` what scripts/calibration.py found. Other parts, and files that `bitbench run`
did not write: see claims_tables.py.

Run by `make docs`; the tests fail where a page is not what this writes.
"""

import json
import re
import sys
from pathlib import Path

import claims_tables
import click
import typer

from bitbench.cli.app import app
from bitbench.engines.registry import ENGINES, engine
from bitbench.explain.cause import KINDS, MEANINGS
from bitbench.explain.rows import VERDICTS, explain
from bitbench.methods.registry import METHODS
from bitbench.reports.markdown import beside_markdown, markdown, table_lines
from bitbench.reports.picture import picture
from bitbench.reports.quality import quality_markdown
from bitbench.results import store, units
from bitbench.results.metrics import metrics_markdown
from bitbench.results.summary import summarize

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"(<!-- table (\S+)(?: (\w+))? -->\n).*?(<!-- /table -->)", re.DOTALL)
_PICTURED = "results/h200-engines-qwen2.5-0.5b.jsonl"
_NOTE = "<!-- written by scripts/docs.py (make docs); edit the code, not this page -->\n\n"


def commands_page() -> str:
    """Every command with its options and examples."""
    group = typer.main.get_command(app)
    parts = ["# Commands\n", f"{group.help}\n"]
    for path, command in _commands(group, ("bitbench",)):
        parts += [
            f"## {' '.join(path)}\n",
            f"{command.help}\n",
            _usage(path, command),
            _options(command),
            _examples(command),
        ]
    return _NOTE + "\n".join(part for part in parts if part)


def _commands(group: click.Command, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    found = []
    for name, command in getattr(group, "commands", {}).items():
        found.append(((*path, name), command))
        found += _commands(command, (*path, name))
    return found


def _usage(path: tuple[str, ...], command: click.Command) -> str:
    arguments = [(p.name or "").upper() for p in command.params if p.param_type_name == "argument"]
    return f"`{' '.join([*path, *arguments, '[OPTIONS]'])}`\n"


def _options(command: click.Command) -> str:
    rows = []
    for option in command.params:
        if option.param_type_name != "option":
            continue
        default = "" if option.default in (None, False, ()) else f"`{option.default}`"
        rows.append(f"| `{', '.join(option.opts)}` | {option.help} | {default} |")
    return "\n".join(["| option | what it does | default |", "|---|---|---|", *rows, ""]) if rows else ""


def _examples(command: click.Command) -> str:
    lines = [line.strip() for line in (command.epilog or "").split("\n") if line.strip()]
    return "\n".join(["```", *lines[1:], "```", ""]) if len(lines) > 1 else ""


def methods_page() -> str:
    """The table of methods and that of engines."""
    lines = [
        "# Methods and engines\n",
        "| method | what | scheme | kernels that can be asked for | made | needs |",
        "|---|---|---|---|---|---|",
    ]
    for m in METHODS.values():
        kernels = ", ".join(f"`{m.name}:{k}`" for k in m.kernels) or "the library's own"
        lines.append(
            f"| `{m.name}` | {m.title}: {m.summary} | {m.scheme.name} | {kernels} | {m.made} | {', '.join(m.needs)} |"
        )
    lines += ["", "| engine | what | needs | clock of the gaps between tokens |", "|---|---|---|---|"]
    for name in ENGINES:
        made = engine(name)
        lines.append(f"| `{name}` | {made.summary} | {', '.join(made.needs) or 'nothing'} | {made.itl_clock} |")
    return _NOTE + "\n".join(lines) + "\n"


def verdicts_section() -> str:
    """What the verdicts in a row mean, for the end of docs/metrics.md."""
    lines = ["", "## Why it is as fast as it is", "", "| name | meaning |", "|---|---|"]
    lines += [f"| `{key}` | {text} |" for key, text in VERDICTS.items()]
    lines += ["", "| verdict | the first that applies |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{kind}` | {MEANINGS[kind]} |" for kind in KINDS)]) + "\n"


def filled(text: str) -> str:
    """The text with each table block filled from its record file."""
    return _BLOCK.sub(lambda block: f"{block[1]}{record_table(block[2], block[3])}{block[4]}", text)


def record_table(name: str, part: str | None = None) -> str:
    """The markdown table of a record file, without the definitions."""
    if part == "calibration":
        return calibration_table(ROOT / name)
    if part == "quality":
        shown = quality_markdown(store.read([ROOT / name]).qualities).rstrip()
        return f"{shown}\n\n`bitbench show {name} --quality` prints this with its definitions.\n"
    if part == "engines":
        return beside_markdown(summarize(store.read([ROOT / name]).records))
    if part or name.endswith(".json"):
        return claims_tables.table(ROOT / name, part or "")
    loaded = store.read([ROOT / name])
    table = markdown(summarize(loaded.records, loaded.endings, loaded.qualities)).split("\nDefinitions:")[0].rstrip()
    return f"{table}\n\n`bitbench show {name}` prints this table with its definitions.\n"


def calibration_table(path: Path) -> str:
    """Mean KL and top-1 agreement of each calibration on each text."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = list(rows[0]["texts"])
    head = ["method", "calibration", *(f"{text}: KL" for text in texts), *(f"{text}: top-1 %" for text in texts)]
    table = []
    for row in rows:
        calibrated = row["name"] if row["method"] == "awq-int4" else "-"
        found = [row["texts"][text] for text in texts]
        kls = [units.kl(of["kl_mean"]) for of in found]
        table.append([row["method"], calibrated, *kls, *(units.share(of["top1_agreement"]) for of in found)])
    return "\n".join(table_lines(head, table)) + "\n"


def pages() -> dict[Path, str]:
    """Every page this script writes, with what it should hold."""
    written = {
        DOCS / "commands.md": commands_page(),
        DOCS / "methods.md": methods_page(),
        DOCS / "metrics.md": _NOTE + metrics_markdown() + verdicts_section(),
        DOCS / "step-time.svg": picture(explain(summarize(store.read([ROOT / _PICTURED]).records))),
    }
    texts = [path for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))) if path not in written and path.exists()]
    return written | {path: filled(path.read_text(encoding="utf-8")) for path in texts}


def main() -> None:
    """Write the pages, or with --check say which differ."""
    stale = []
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"stale pages: {', '.join(stale)}: run make docs")


if __name__ == "__main__":
    main()
