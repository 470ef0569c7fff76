"""The options of `bitbench quality`."""

from pathlib import Path
from typing import Annotated

import typer

from bitbench.cli import options
from bitbench.cli.parsing import usage_errors

EXAMPLES = (
    "bitbench quality                                  the default model and methods on this machine",
    "bitbench quality demo -m awq-int4 -m rtn-int4     what calibration is worth",
    "bitbench quality Qwen/Qwen2.5-0.5B-Instruct -e graphed --text my-documents.txt",
    "bitbench quality demo --tasks arc_easy --limit 200",
    "bitbench show bitbench-results.jsonl --quality    the same figures again, from the records",
)


def quality(  # noqa: PLR0917 Typer passes options by position
    model: Annotated[
        str | None,
        typer.Argument(help="demo, a local folder, or a hub id. Default: by what is here.", show_default=False),
    ] = None,
    method: options.Methods = None,
    engine: options.Engines = None,
    device: options.Device = None,
    text: Annotated[
        Path | None,
        typer.Option(help="A text of your own (UTF-8), instead of bitbench's.", show_default=False),
    ] = None,
    positions: Annotated[
        int | None,
        typer.Option(min=1, help="Of whole windows. Default: 2,560 on a CPU, 50,000 on a GPU.", show_default=False),
    ] = None,
    disk_budget: Annotated[
        str, typer.Option(help="For the 16-bit model's logits, where both models do not fit in memory.")
    ] = "2GB",
    store: Annotated[
        bool, typer.Option("--store", help="Store the 16-bit model's logits even where both models fit.")
    ] = False,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="A task of lm-evaluation-harness to score too. Repeatable.", show_default=False),
    ] = None,
    tasks_folder: Annotated[
        Path | None, typer.Option(help="A folder with tasks of your own, on local data.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Documents of each task. Default: all.", show_default=False)
    ] = None,
    timeout: options.Timeout = "5m",
    out: options.Out = options.DEFAULT_OUT,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what --out has already.")] = False,
    quantize: options.Quantize = False,
    yes: options.Yes = False,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Say what each method costs in quality, beside the 16-bit model on the same tokens. Appends to a record file."""
    from bitbench.cli import quality as command

    with usage_errors():
        given = command.Options(
            model=model,
            methods=tuple(method or ()),
            engines=tuple(engine or ()),
            device=device,
            text=text,
            positions=positions,
            disk_budget=disk_budget,
            store=store,
            tasks=tuple(tasks or ()),
            tasks_folder=tasks_folder,
            limit=limit,
            timeout=timeout,
            out=out,
            resume=resume,
            quantize=quantize,
            yes=yes,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        command.quality(given)
