"""The options of `bitbench quality`."""

from pathlib import Path
from typing import Annotated

import typer

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
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Method, or method:kernel. Repeatable.", show_default=False),
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option("--engine", "-e", help="Engine. Repeatable.", show_default=False)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:1. Default: the GPU, if any.", show_default=False)
    ] = None,
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
    timeout: Annotated[str, typer.Option(help="A worker that says nothing for so long is ended.")] = "5m",
    out: Annotated[Path, typer.Option(help="Record file to append to.")] = Path("bitbench-results.jsonl"),
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what --out has already.")] = False,
    quantize: Annotated[
        bool, typer.Option("--quantize", help="Make the AWQ checkpoint here, even where its maker publishes one.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Load .bin files too.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run a checkpoint's own code.")
    ] = False,
) -> None:
    """Say what each method costs in quality, beside the 16-bit model on the same tokens. Appends to a record file."""
    from bitbench.cli import quality as command

    with usage_errors():
        options = command.Options(
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
        command.quality(options)
