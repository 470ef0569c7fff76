"""`bitbench tune`: measures the Triton decoder's block sizes on this GPU and keeps the fastest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bitbench.cli.asking import ask, default_model
from bitbench.cli.console import wide_console
from bitbench.cli.parsing import parse_device
from bitbench.decode.triton_steps import check_tools
from bitbench.engines.fused import STORED
from bitbench.engines.registry import engine
from bitbench.facts.errors import Unsupported
from bitbench.facts.messages import PrepareTask
from bitbench.facts.models import ModelRef, parse_model
from bitbench.methods.checkpoint import plan, prepare
from bitbench.methods.registry import parse_method

DEFAULT_METHODS, DEFAULT_BATCHES = ("fp16", "awq-int4"), (1, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line's options, as they were typed."""

    model: str | None
    methods: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    device: str | None
    context: int
    yes: bool
    dry_run: bool


def tune(options: Options) -> None:
    """Search for each method and batch size, and keep what was found. Raises ValueError for bad input."""
    try:
        _tune(options)
    except Unsupported as error:
        raise ValueError(str(error)) from error


def _tune(options: Options) -> None:
    console, device = wide_console(), parse_device(options.device)
    methods = options.methods or DEFAULT_METHODS
    _check(methods, device)
    model = parse_model(options.model) if options.model else default_model(device, ("fused",), console)
    ask(max(plan(model, m, device).download_bytes or 0 for m in methods), model.label, options.yes)
    _search(model, methods, device, options, console)


def _check(methods: Sequence[str], device: str) -> None:
    for method in methods:
        if method not in STORED:
            raise ValueError(f"the decoder has no method '{method}': choose from {', '.join(STORED)}")
        answer = engine("fused").supports(parse_method(method), device)
        if not answer.ok:
            raise ValueError(f"{method}: {answer.reason}")
    check_tools()  # before anything is made or Triton imported


def _search(model: ModelRef, methods: Sequence[str], device: str, options: Options, console: Console) -> None:
    import torch

    from bitbench.decode import load
    from bitbench.decode.search import NUM_STEPS, search
    from bitbench.decode.triton_steps import on_cuda
    from bitbench.decode.tuning import file, keep

    name, tuning = torch.cuda.get_device_properties(device).name, None
    for method in methods:
        task = PrepareTask(model=model, method=method, device=device, quantize=True)
        decoder = load(Path(prepare(task, lambda _: None).path), STORED[method], device)
        for batch_size in options.batch_sizes or DEFAULT_BATCHES:
            console.print(f"{method}, batch {batch_size}")
            steps = on_cuda(decoder.forward, device, options.context + NUM_STEPS + 2, batch_size)
            tuning = search(steps, options.context, tuning, lambda line: console.print(f"  {line}"))
            if not options.dry_run:
                keep(name, tuning)  # at once: a search takes half a minute, and the next one may be interrupted
                console.print(f"  kept for {name} in {file()}")
