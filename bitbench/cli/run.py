"""`bitbench run`: from options to a plan, the run, and its table."""

import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console

from bitbench.cli.console import wide_console
from bitbench.cli.parsing import parse_device, parse_duration, parse_percent
from bitbench.cli.plan import gigabytes, plan_view
from bitbench.cli.progress import Display
from bitbench.cli.show import print_records
from bitbench.engines.registry import DEFAULT_ENGINE, engine
from bitbench.facts.models import DEFAULT_HUB_MODEL, DEFAULT_OFFLINE_SHAPE, ModelRef, parse_model
from bitbench.facts.workloads import STARTING_PROMPTS, Workload, parse_workload
from bitbench.methods.hub import hub_reachable
from bitbench.methods.registry import default_methods, parse_method
from bitbench.results import store
from bitbench.results.machine import collect
from bitbench.results.record import Record
from bitbench.runner.ceiling import with_measured_ceilings
from bitbench.runner.plan import DEFAULT_SILENCE_S, Plan, Request, make_plan
from bitbench.runner.run import Run

INTERRUPTED = 130
NOTHING_MEASURED = 1
_QUICK_PROMPTS, _QUICK_OUTPUT_LEN = 4, 32
_CPU_WORKLOAD = "starting-10x32"
_GPU_WORKLOAD = "starting-20x128"


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's options, as they were typed."""

    model: str | None
    methods: tuple[str, ...]
    engines: tuple[str, ...]
    device: str | None
    workload: str | None
    prompts: int | None
    prompt_len: int | None
    output_len: int | None
    batch_size: int | None
    processes: int | None
    precision: str
    budget: str
    timeout: str
    out: Path
    resume: bool
    quick: bool
    dry_run: bool
    quantize: bool
    yes: bool
    allow_pickle: bool
    trust_remote_code: bool
    profile: bool


def run(options: Options) -> None:
    """Plan, ask before a download, measure, print.

    Raises ValueError for bad input; exits 1 where nothing was measured.
    """
    console = wide_console()
    signal.signal(signal.SIGTERM, _stop)
    request = _request(options, console)
    device = "fake" if request.engines == ("fake",) else request.device
    plan = make_plan(request, collect(device))
    if options.dry_run:
        console.print(plan_view(plan if plan.bandwidth_bytes_per_s else with_measured_ceilings(plan)))
        return
    store.check_writable(options.out)
    before = _before(options, plan)
    _ask(plan, options, console)
    run_id, interrupted = _measure(plan, options, before, console)
    loaded = store.read([options.out])
    records = [r for r in loaded.records if r.run_id == run_id or r in before]
    endings = [e for e in loaded.endings if e.run_id == run_id]
    print_records(records, endings, console)
    console.print(f"records: {options.out}   again: bitbench show {options.out}", style="dim")
    if interrupted:
        console.print("interrupted: the records so far are kept; go on with the same command and --resume")
        raise typer.Exit(INTERRUPTED)
    if not any(r.status == "ok" for r in records):
        raise typer.Exit(NOTHING_MEASURED)


def _measure(plan: Plan, options: Options, before: list[Record], console: Console) -> tuple[str, bool]:
    with Display(console, plan) as display:
        job = Run(plan, options.out, display)
        try:
            job.execute(before)
        except KeyboardInterrupt:
            return job.run_id, True
    return job.run_id, False


def _before(options: Options, plan: Plan) -> list[Record]:
    """Records to go on from; those of another machine, driver or version are left alone."""
    if not options.resume or not options.out.exists():
        return []
    wanted = {c.cell for c in plan.cells}
    key = plan.environment.pool_key
    return [r for r in store.read([options.out]).records if r.cell in wanted and r.environment.pool_key == key]


def _request(options: Options, console: Console) -> Request:
    engines = options.engines or (DEFAULT_ENGINE,)
    for name in engines:
        engine(name)
    device = "cpu" if engines == ("fake",) and options.device is None else parse_device(options.device)
    model = parse_model(options.model) if options.model else _default_model(device, engines, console)
    methods = options.methods or default_methods(device)
    return Request(
        model=model,
        methods=tuple(parse_method(m) for m in dict.fromkeys(methods)),
        engines=tuple(dict.fromkeys(engines)),
        device=device,
        workload=_workload(options, device),
        processes=options.processes,
        precision=parse_percent(options.precision, "--precision"),
        budget_s=parse_duration(options.budget, "--budget"),
        silence_s=parse_duration(options.timeout, "--timeout") or DEFAULT_SILENCE_S,
        quick=options.quick,
        quantize=options.quantize,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
        profile=options.profile,
    )


def _default_model(device: str, engines: tuple[str, ...], console: Console) -> ModelRef:
    """With CUDA the starting README's model, its shape where the hub can't be reached; without CUDA the demo."""
    if device == "cpu" or engines == ("fake",):
        return parse_model("demo")
    if hub_reachable():
        return parse_model(DEFAULT_HUB_MODEL)
    console.print(
        f"the hub can't be reached: measuring shape:{DEFAULT_OFFLINE_SHAPE}, the same sizes with random weights, "
        f"instead of {DEFAULT_HUB_MODEL}"
    )
    return parse_model(f"shape:{DEFAULT_OFFLINE_SHAPE}")


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


def _ask(plan: Plan, options: Options, console: Console) -> None:
    """Say the size of a download and ask; without a terminal only --yes answers. Raises ValueError."""
    size = max((c.checkpoint.download_bytes or 0 for c in plan.cells if c.checkpoint), default=0)
    if not size or options.yes:
        return
    question = f"download {gigabytes(size)} for {plan.request.model.label}?"
    if not sys.stdin.isatty():
        raise ValueError(f"{question} say --yes to agree where nobody can be asked")
    if not typer.confirm(question):
        raise typer.Exit(0)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
