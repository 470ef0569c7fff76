"""What commands that measure have in common: their options, the default model, and asking before a download."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from rich.console import Console

from bitbench.cli.parsing import parse_device, parse_duration
from bitbench.cli.plan import gigabytes
from bitbench.engines.registry import DEFAULT_ENGINE, engine
from bitbench.facts.models import DEFAULT_HUB_MODEL, DEFAULT_OFFLINE_SHAPE, ModelRef, parse_model
from bitbench.methods.hub import hub_reachable
from bitbench.methods.registry import default_methods, parse_method
from bitbench.runner.plan import DEFAULT_SILENCE_S, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What every command that starts workers is told, as it was typed."""

    model: str | None
    methods: tuple[str, ...]
    engines: tuple[str, ...]
    device: str | None
    timeout: str
    out: Path
    resume: bool
    quantize: bool
    yes: bool
    allow_pickle: bool
    trust_remote_code: bool


def asked(options: Common, console: Console) -> dict[str, Any]:
    """The fields of a `Request` that follow from them. Raises ValueError naming what is valid."""
    engines = chosen_engines(options.engines)
    device = "cpu" if engines == ("fake",) and options.device is None else parse_device(options.device)
    methods = options.methods or default_methods(device)
    return {
        "model": parse_model(options.model) if options.model else default_model(device, engines, console),
        "methods": tuple(parse_method(m) for m in dict.fromkeys(methods)),
        "engines": engines,
        "device": device,
        "silence_s": parse_duration(options.timeout, "--timeout") or DEFAULT_SILENCE_S,
        "quantize": options.quantize,
        "allow_pickle": options.allow_pickle,
        "trust_remote_code": options.trust_remote_code,
    }


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
    ask(max(size, more_bytes), plan.request.model.label, yes)


def ask(num_bytes: int, label: str, yes: bool) -> None:
    """About a download of so many bytes; nothing for 0. Raises ValueError where nobody can be asked."""
    if not num_bytes or yes:
        return
    question = f"download {gigabytes(num_bytes)} for {label}?"
    if not sys.stdin.isatty():
        raise ValueError(f"{question} say --yes to agree where nobody can be asked")
    if not typer.confirm(question):
        raise typer.Exit(0)


def stop_like_ctrl_c(signum: int, frame: FrameType | None) -> None:
    """A handler for SIGTERM."""
    raise KeyboardInterrupt
