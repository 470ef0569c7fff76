"""The options that commands share, as they are typed."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_OUT = Path("bitbench-results.jsonl")

Methods = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", help="Method, or method:kernel. Repeatable.", show_default=False),
]
Engines = Annotated[list[str] | None, typer.Option("--engine", "-e", help="Engine. Repeatable.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1. Default: the GPU, if any.", show_default=False)]
Timeout = Annotated[str, typer.Option(help="A worker that says nothing for so long is ended.")]
Out = Annotated[Path, typer.Option(help="Record file to append to.")]
Quantize = Annotated[
    bool, typer.Option("--quantize", help="Make the AWQ checkpoint here, even where its maker publishes one.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load .bin files too.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run a checkpoint's own code.")]
