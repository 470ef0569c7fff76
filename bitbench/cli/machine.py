"""`bitbench doctor` and `bitbench cache`."""

from collections.abc import Sequence

import typer
from rich.table import Table

from bitbench.cli.console import wide_console
from bitbench.cli.parsing import parse_device
from bitbench.cli.plan import gigabytes
from bitbench.measure.doctor import examine
from bitbench.methods import cache

_MARKS = {"good": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "bad": "[red]bad[/red]"}


def doctor(device_option: str | None) -> None:
    """The machine, what makes measurements bad here, and what to do about it."""
    device = parse_device(device_option)
    console = wide_console()
    table = Table(title=f"this machine, for measuring on {device}", title_justify="left", box=None, pad_edge=False)
    for title in ("", "topic", "state", "advice"):
        table.add_column(title, overflow="fold")
    findings = examine(device)
    for finding in findings:
        table.add_row(_MARKS[finding.verdict], finding.topic, finding.state, finding.advice)
    console.print(table)
    bad = [f.topic for f in findings if f.verdict == "bad"]
    console.print(f"\nbad for measuring: {', '.join(bad)}" if bad else "\nnothing here stands in the way of measuring")


def cache_list() -> None:
    """The cached checkpoints."""
    console = wide_console()
    entries = cache.entries()
    if not entries:
        console.print(f"nothing cached in {cache.folder()}")
        return
    table = Table(title=f"cached in {cache.folder()}", title_justify="left")
    for title in ("name", "size", "made", "origin"):
        table.add_column(title, overflow="fold")
    for entry in entries:
        table.add_row(entry.name, gigabytes(entry.bytes), entry.created_at[:16], entry.origin)
    console.print(table)


def cache_clear(names: Sequence[str], yes: bool) -> None:
    """Remove entries. Raises ValueError naming the entries there are."""
    console = wide_console()
    chosen = list(names) or [entry.name for entry in cache.entries()]
    if not chosen:
        console.print(f"nothing cached in {cache.folder()}")
        return
    if not yes and not typer.confirm(f"remove {', '.join(chosen)}?"):
        raise typer.Exit(0)
    console.print(f"freed {gigabytes(cache.clear(chosen))}")
