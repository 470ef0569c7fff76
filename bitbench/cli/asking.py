"""What commands that measure have in common: the default model, and asking before a download."""

import sys
from types import FrameType

import typer
from rich.console import Console

from bitbench.cli.plan import gigabytes
from bitbench.engines.registry import DEFAULT_ENGINE, engine
from bitbench.facts.models import DEFAULT_HUB_MODEL, DEFAULT_OFFLINE_SHAPE, ModelRef, parse_model
from bitbench.methods.hub import hub_reachable
from bitbench.runner.plan import Plan


def chosen_engines(names: tuple[str, ...]) -> tuple[str, ...]:
    """Each once, or the default one. Raises ValueError naming the valid ones."""
    engines = tuple(dict.fromkeys(names)) or (DEFAULT_ENGINE,)
    for name in engines:
        engine(name)
    return engines


def default_model(device: str, engines: tuple[str, ...], console: Console) -> ModelRef:
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


def ask_download(plan: Plan, yes: bool, more_bytes: int = 0) -> None:
    """Say the size of a download and ask; without a terminal only --yes answers. Raises ValueError.

    `more_bytes`: of another checkpoint than those of the cells.
    """
    size = max((c.checkpoint.download_bytes or 0 for c in plan.cells if c.checkpoint), default=0)
    size = max(size, more_bytes)
    if not size or yes:
        return
    question = f"download {gigabytes(size)} for {plan.request.model.label}?"
    if not sys.stdin.isatty():
        raise ValueError(f"{question} say --yes to agree where nobody can be asked")
    if not typer.confirm(question):
        raise typer.Exit(0)


def stop_like_ctrl_c(signum: int, frame: FrameType | None) -> None:
    """A handler for SIGTERM."""
    raise KeyboardInterrupt
