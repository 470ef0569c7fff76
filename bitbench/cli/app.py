"""The commands and their options. Each imports what it needs when it runs, so that --help is quick."""

from pathlib import Path
from typing import Annotated

import typer

from bitbench.cli import options, quality_command
from bitbench.cli.parsing import usage_errors

app = typer.Typer(
    name="bitbench",
    help="Which precision to run a language model in on your hardware, what it costs, and why each row is as fast as "
    "it is.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
cache_app = typer.Typer(help="The checkpoints bitbench made.", invoke_without_command=True)
app.add_typer(cache_app, name="cache")


def _examples(*lines: str) -> str:
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)


@app.command(
    epilog=_examples(
        "bitbench run                                      the default model and methods on this machine",
        "bitbench run Qwen/Qwen2.5-0.5B-Instruct --method fp16 --method awq-int4:marlin",
        "bitbench run shape:qwen2.5-7b --workload p512-n64 --quick",
        "bitbench run demo --device cpu --budget 4m --out demo.jsonl",
        "bitbench run demo --quality                       speed, memory and quality in one table",
        "bitbench run demo --out demo.jsonl --resume        go on where Ctrl-C or the budget ended it",
        "bitbench run shape:llama-3.1-8b --dry-run          what it would do, need and take",
    )
)
def run(  # noqa: PLR0917 Typer passes options by position
    model: Annotated[
        str | None,
        typer.Argument(
            help="demo, shape:NAME, a local folder, or a hub id. Default: by what is here.", show_default=False
        ),
    ] = None,
    method: options.Methods = None,
    engine: options.Engines = None,
    device: options.Device = None,
    workload: Annotated[
        str | None,
        typer.Option("--workload", "-w", help="starting-20x128, p40-n128, p512-n64-b8@d4096, ...", show_default=False),
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Number of prompts.", show_default=False)] = None,
    prompt_len: Annotated[int | None, typer.Option(min=1, help="Prompt length, tokens.", show_default=False)] = None,
    output_len: Annotated[int | None, typer.Option(min=1, help="New tokens per prompt.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Sequences at once.", show_default=False)] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes per row. Default: 5, more while precision asks.", show_default=False),
    ] = None,
    precision: Annotated[str, typer.Option(help="Half width of the interval to reach, e.g. 3%.")] = "3%",
    budget: Annotated[
        str,
        typer.Option(
            help="Time for the whole run, e.g. 90s, 10m, 2h, none. Making checkpoints, done once, is not counted."
        ),
    ] = "10m",
    timeout: options.Timeout = "5m",
    out: options.Out = options.DEFAULT_OUT,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the records in --out.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Two processes, few prompts: a first look.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    quantize: options.Quantize = False,
    yes: options.Yes = False,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile/--no-profile",
            help="Profile a few steps after timing each row's first process (explain needs it).",
        ),
    ] = True,
    quality: Annotated[
        bool,
        typer.Option("--quality", help="Compare each row with the 16-bit model first, in full (bitbench quality)."),
    ] = False,
) -> None:
    """Measure methods of one model on this machine and print the table. Appends to a record file."""
    from bitbench.cli import run as command

    with usage_errors():
        given = command.Options(
            model=model,
            methods=tuple(method or ()),
            engines=tuple(engine or ()),
            device=device,
            workload=workload,
            prompts=prompts,
            prompt_len=prompt_len,
            output_len=output_len,
            batch_size=batch_size,
            processes=processes,
            precision=precision,
            budget=budget,
            timeout=timeout,
            out=out,
            resume=resume,
            quick=quick,
            dry_run=dry_run,
            quantize=quantize,
            yes=yes,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
            profile=profile,
            quality=quality,
        )
        command.run(given)


app.command(epilog=_examples(*quality_command.EXAMPLES))(quality_command.quality)


@app.command(
    epilog=_examples(
        "bitbench show bitbench-results.jsonl",
        "bitbench show results/*.jsonl --format markdown",
        "bitbench show results/h200.jsonl --format json",
        "bitbench show bitbench-results.jsonl --quality",
    )
)
def show(
    files: Annotated[list[Path], typer.Argument(help="Record files.")],
    format: Annotated[str, typer.Option("--format", "-f", help="table, markdown, csv or json.")] = "table",
    quality: Annotated[
        bool,
        typer.Option("--quality", help="Quality in full instead: every text and path, and what can be told apart."),
    ] = False,
) -> None:
    """Print the table from records; needs no torch."""
    from bitbench.cli import show as command

    with usage_errors():
        command.show(files, format, quality)


@app.command(
    epilog=_examples(
        "bitbench explain bitbench-results.jsonl",
        "bitbench explain results/*.jsonl --cell fp16 --cell bnb-nf4",
        "bitbench explain results/h200.jsonl --cell 'fp16 graphed' --format markdown",
        "bitbench explain results/h200.jsonl --format svg > step.svg",
    )
)
def explain(
    files: Annotated[list[Path], typer.Argument(help="Record files.")],
    cell: Annotated[
        list[str] | None,
        typer.Option(
            "--cell", "-c", help="Words a row must bear, such as 'fp16 graphed'. Repeatable.", show_default=False
        ),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", "-f", help="text, markdown, json, or svg: a picture of the step's time.")
    ] = "text",
) -> None:
    """Say why each row is as fast as it is, from records with a profile; needs no torch."""
    from bitbench.cli import explain as command

    with usage_errors():
        command.explain_files(files, cell or [], format)


@app.command(epilog=_examples("bitbench methods", "bitbench methods --device cuda"))
def methods(
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1.", show_default=False)] = None,
) -> None:
    """List the methods: scheme, kernels, needs, and whether each can run here."""
    from bitbench.cli import catalogue

    with usage_errors():
        catalogue.methods(device)


@app.command(epilog=_examples("bitbench engines"))
def engines() -> None:
    """List the engines and whether each can run here."""
    from bitbench.cli import catalogue

    catalogue.engines()


@app.command(epilog=_examples("bitbench models"))
def models() -> None:
    """List what a model argument can be, with sizes."""
    from bitbench.cli import catalogue

    catalogue.models()


@app.command(
    epilog=_examples(
        "bitbench tune                                     fp16 and awq-int4, one sequence and eight",
        "bitbench tune Qwen/Qwen2.5-1.5B-Instruct -m fp8-wo --batch-size 16",
    )
)
def tune(  # noqa: PLR0917 Typer passes options by position
    model: Annotated[
        str | None,
        typer.Argument(help="shape:NAME, a local folder, or a hub id. Default: by what is here.", show_default=False),
    ] = None,
    method: options.Methods = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, max=16, help="Sequences at once. Repeatable. Default: 1 and 8.", show_default=False),
    ] = None,
    device: options.Device = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens before the steps that are timed.")] = 256,
    yes: options.Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Keep nothing.")] = False,
) -> None:
    """Measure block sizes of the engine fused's Triton kernels on this GPU, and keep the fastest for later runs."""
    from bitbench.cli import tune as command

    with usage_errors():
        given = command.Options(
            model=model,
            methods=tuple(method or ()),
            batch_sizes=tuple(batch_size or ()),
            device=device,
            context=context,
            yes=yes,
            dry_run=dry_run,
        )
        command.tune(given)


@app.command(epilog=_examples("bitbench doctor", "bitbench doctor --device cuda:1"))
def doctor(
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1.", show_default=False)] = None,
) -> None:
    """Look at the machine: what makes measurements bad here, and what to do about it."""
    from bitbench.cli import machine

    with usage_errors():
        machine.doctor(device)


@cache_app.callback()
def cache(context: typer.Context) -> None:
    """List what is cached; `cache clear` removes it."""
    if context.invoked_subcommand is None:
        cache_list()


@cache_app.command("list", epilog=_examples("bitbench cache list"))
def cache_list() -> None:
    """List the checkpoints bitbench made: size and origin."""
    from bitbench.cli import machine

    machine.cache_list()


@cache_app.command("clear", epilog=_examples("bitbench cache clear", "bitbench cache clear demo"))
def cache_clear(
    names: Annotated[
        list[str] | None, typer.Argument(help="Entries to remove. Default: all.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove cached checkpoints."""
    from bitbench.cli import machine

    with usage_errors():
        machine.cache_clear(names or [], yes)
