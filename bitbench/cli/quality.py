"""`bitbench quality`: from options to comparisons with the 16-bit model, and their report."""

import signal
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from bitbench.cli.asking import Common, ask_download, asked, stop_like_ctrl_c
from bitbench.cli.console import wide_console
from bitbench.cli.parsing import parse_bytes
from bitbench.cli.progress import Display
from bitbench.engines.packages import missing_packages
from bitbench.facts.corpora import own_text
from bitbench.facts.messages import HarnessTasks
from bitbench.facts.workloads import parse_workload
from bitbench.methods.checkpoint import plan as plan_checkpoint
from bitbench.reports.quality import quality_report
from bitbench.results import store
from bitbench.results.machine import collect
from bitbench.results.record import QualityRecord
from bitbench.runner.plan import Plan, Request, make_plan
from bitbench.runner.preparing import SIXTEEN_BIT, has_random_weights
from bitbench.runner.quality_run import QualityRun
from bitbench.runner.references import Comparison

INTERRUPTED = 130
NOTHING_COMPARED = 1
# Nothing of a workload matters for quality; a plan has one.
_WORKLOAD = "p32-n16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Common):
    """The command line's options, as they were typed."""

    text: Path | None
    positions: int | None
    disk_budget: str
    store: bool
    tasks: tuple[str, ...]
    tasks_folder: Path | None
    limit: int | None


def quality(options: Options) -> None:
    """Plan, ask before a download, compare, print.

    Raises ValueError for bad input; exits 1 where nothing was compared.
    """
    console = wide_console()
    signal.signal(signal.SIGTERM, stop_like_ctrl_c)
    request = _request(options, console)
    how = comparison(options.text, options.positions, options.disk_budget, options.store)
    tasks = _tasks(options)
    device = "fake" if request.engines == ("fake",) else request.device
    plan = make_plan(request, collect(device))
    store.check_writable(options.out)
    before = list(store.read([options.out]).qualities) if options.resume and options.out.exists() else []
    sixteen = plan_checkpoint(request.model, SIXTEEN_BIT, request.device)
    ask_download(plan, options.yes, sixteen.download_bytes or 0)
    records, interrupted = compare(plan, options.out, how, tasks=tasks, before=before, console=console)
    shown = [*(r for r in before if r.subject in {c.cell.subject for c in plan.cells}), *records]
    console.print(quality_report(shown, console.width), soft_wrap=True, highlight=False, markup=False)
    console.print(f"records: {options.out}   again: bitbench show {options.out} --quality", style="dim")
    if interrupted:
        console.print("interrupted: the records so far are kept; go on with the same command and --resume")
        raise typer.Exit(INTERRUPTED)
    if not any(r.status == "ok" for r in shown):
        raise typer.Exit(NOTHING_COMPARED)


def compare(
    plan: Plan,
    out: Path,
    how: Comparison,
    *,
    tasks: HarnessTasks | None,
    before: list[QualityRecord],
    console: Console,
) -> tuple[list[QualityRecord], bool]:
    """The records made, and whether Ctrl-C ended it."""
    with Display(console, plan) as display:
        job = QualityRun(plan, out, display, how, tasks)
        try:
            job.execute(before)
        except KeyboardInterrupt:
            return job.records, True
    return job.records, False


def comparison(text: Path | None, positions: int | None, disk_budget: str, stored: bool) -> Comparison:
    """Raises ValueError for a text that cannot be read, or a budget that is none."""
    if text is not None:
        try:
            own_text(text)
        except OSError as error:
            raise ValueError(f"--text {text}: {error.strerror or error}") from error
    return Comparison(text, positions, parse_bytes(disk_budget, "--disk-budget"), stored)


def _tasks(options: Options) -> HarnessTasks | None:
    if not options.tasks:
        if options.tasks_folder or options.limit:
            raise ValueError("--tasks-folder and --limit are about --tasks: name a task")
        return None
    found = missing_packages(("lm_eval",))
    if not found.ok:
        raise ValueError(f"--tasks needs lm-evaluation-harness: {found.reason}")
    if options.tasks_folder and not options.tasks_folder.is_dir():
        raise ValueError(f"--tasks-folder: there is no folder {options.tasks_folder}")
    folder = str(options.tasks_folder.resolve()) if options.tasks_folder else None
    return HarnessTasks(names=options.tasks, folder=folder, limit=options.limit)


def _request(options: Options, console: Console) -> Request:
    request = Request(**asked(options, console), workload=parse_workload(_WORKLOAD))
    if has_random_weights(request.model):
        raise ValueError(
            f"{request.model.label} has random weights, which have no quality to lose: give a model with trained ones "
            "(bitbench run checks the numerics of any)"
        )
    return request
