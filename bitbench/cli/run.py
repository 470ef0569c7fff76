"""`bitbench run`: from options to a plan, the run, and its table."""

import signal
from dataclasses import dataclass, replace

import typer
from rich.console import Console

from bitbench.cli.asking import Common, ask_download, asked, stop_like_ctrl_c
from bitbench.cli.console import wide_console
from bitbench.cli.parsing import parse_duration, parse_percent
from bitbench.cli.plan import plan_view
from bitbench.cli.progress import Display
from bitbench.cli.quality import compare
from bitbench.cli.show import print_records
from bitbench.facts.workloads import STARTING_PROMPTS, Workload, parse_workload
from bitbench.results import store
from bitbench.results.machine import collect
from bitbench.results.record import QualityRecord, Record, Subject
from bitbench.runner.ceiling import with_measured_ceilings
from bitbench.runner.plan import Plan, Request, make_plan
from bitbench.runner.preparing import has_random_weights
from bitbench.runner.references import Comparison
from bitbench.runner.run import Run

INTERRUPTED = 130
NOTHING_MEASURED = 1
_QUICK_PROMPTS, _QUICK_OUTPUT_LEN = 4, 32
_CPU_WORKLOAD = "starting-10x32"
_GPU_WORKLOAD = "starting-20x128"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Common):
    """The command line's options, as they were typed."""

    workload: str | None
    prompts: int | None
    prompt_len: int | None
    output_len: int | None
    batch_size: int | None
    processes: int | None
    precision: str
    budget: str
    quick: bool
    dry_run: bool
    profile: bool
    quality: bool


def run(options: Options) -> None:
    """Plan, ask before a download, measure, print.

    Raises ValueError for bad input; exits 1 where nothing was measured.
    """
    console = wide_console()
    signal.signal(signal.SIGTERM, stop_like_ctrl_c)
    request = _request(options, console)
    device = "fake" if request.engines == ("fake",) else request.device
    plan = make_plan(request, collect(device))
    if options.dry_run:
        console.print(plan_view(plan if plan.bandwidth_bytes_per_s else with_measured_ceilings(plan)))
        return
    store.check_writable(options.out)
    before = _before(options, plan)
    ask_download(plan, options.yes)
    run_id, interrupted = _measure(plan, options, before, console)
    loaded = store.read([options.out])
    records = [r for r in loaded.records if r.run_id == run_id or r in before]
    endings = [e for e in loaded.endings if e.run_id == run_id]
    print_records(store.Loaded(tuple(records), tuple(endings), tuple(_qualities(loaded, records))), console)
    console.print(f"records: {options.out}   again: bitbench show {options.out}", style="dim")
    if interrupted:
        console.print("interrupted: the records so far are kept; go on with the same command and --resume")
        raise typer.Exit(INTERRUPTED)
    if not any(r.status == "ok" for r in records):
        raise typer.Exit(NOTHING_MEASURED)


def _measure(plan: Plan, options: Options, before: list[Record], console: Console) -> tuple[str, bool]:
    incorrect: dict[Subject, str] = {}
    if options.quality:
        earlier = list(store.read([options.out]).qualities) if options.out.exists() else []
        found, interrupted = compare(plan, options.out, Comparison(), tasks=None, before=earlier, console=console)
        if interrupted:
            return "", True
        incorrect = {r.subject: r.reason for r in found if r.status == "incorrect"}
    with Display(console, plan) as display:
        job = Run(plan, options.out, display, incorrect)
        try:
            job.execute(before)
        except KeyboardInterrupt:
            return job.run_id, True
    return job.run_id, False


def _qualities(loaded: store.Loaded, records: list[Record]) -> list[QualityRecord]:
    """Those about the rows shown, from whichever run."""
    shown = {(r.cell.subject, r.environment.pool_key) for r in records}
    return [q for q in loaded.qualities if (q.subject, q.environment.pool_key) in shown]


def _before(options: Options, plan: Plan) -> list[Record]:
    """Records to go on from; those of another machine, driver or version are left alone."""
    if not options.resume or not options.out.exists():
        return []
    wanted = {c.cell for c in plan.cells}
    key = plan.environment.pool_key
    return [r for r in store.read([options.out]).records if r.cell in wanted and r.environment.pool_key == key]


def _request(options: Options, console: Console) -> Request:
    common = asked(options, console)
    request = Request(
        **common,
        workload=_workload(options, common["device"]),
        processes=options.processes,
        precision=parse_percent(options.precision, "--precision"),
        budget_s=parse_duration(options.budget, "--budget"),
        quick=options.quick,
        profile=options.profile,
    )
    if options.quality and has_random_weights(request.model):
        raise ValueError(
            f"--quality: {request.model.label} has random weights, which have no quality to lose: leave it out"
        )
    return request


def _workload(options: Options, device: str) -> Workload:
    """The named workload, or the device's default, with the parts that were given on their own replaced."""
    base = parse_workload(options.workload or (_CPU_WORKLOAD if device == "cpu" else _GPU_WORKLOAD))
    if options.quick and not options.workload:
        base = replace(base, num_prompts=_QUICK_PROMPTS, output_len=min(base.output_len, _QUICK_OUTPUT_LEN))
    if options.prompt_len:
        base = replace(base, prompt_len=options.prompt_len)
    given = {"num_prompts": options.prompts, "output_len": options.output_len, "batch_size": options.batch_size}
    if base.is_text and options.prompts and options.prompts > STARTING_PROMPTS:
        raise ValueError(f"--prompts: there are {STARTING_PROMPTS} starting prompts; for more give --prompt-len too")
    return replace(base, **{name: value for name, value in given.items() if value is not None})
