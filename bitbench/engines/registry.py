"""The table of engines. An engine's file is imported only when it is asked for; each file has one class, `ENGINE`."""

from importlib import import_module

from bitbench.engines.base import Engine

ENGINES: dict[str, str] = {
    "transformers": "bitbench.engines.transformers",
    "graphed": "bitbench.engines.graphed",
    "compiled": "bitbench.engines.compiled",
    "fused": "bitbench.engines.fused",
    "fake": "bitbench.engines.fake",
}
DEFAULT_ENGINE = "transformers"


def engine(name: str) -> Engine:
    """The engine of that name. Raises ValueError naming the valid ones."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine '{name}': choose from {', '.join(ENGINES)}")
    made: Engine = import_module(ENGINES[name]).ENGINE()
    return made
