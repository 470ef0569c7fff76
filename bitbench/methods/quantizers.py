"""Who makes a method's checkpoint from a model's 16-bit one."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bitbench.facts.messages import Checkpoint, Made, Progress
from bitbench.facts.models import ModelShape
from bitbench.methods import awq, rtn


class Quantizer(Protocol):
    """A module that quantizes. Importing it imports no torch."""

    NAME: str
    """Part of the cache entry's name."""

    def recipe(self, source_hash: str, group_size: int, device: str) -> str:
        """All that decides the checkpoint's content."""

    def work(self, shape: ModelShape | None, device: str) -> str:
        """One line of what it takes, for the plan."""

    def quantize(
        self,
        source: Checkpoint,
        *,
        group_size: int,
        num_layers: int,
        device: str,
        folder: Path,
        progress: Callable[[Progress], None],
        trust_remote_code: bool = False,
    ) -> Made:
        """Write the checkpoint into the empty `folder`. Raises LoadError where it can't be done."""


QUANTIZERS: dict[str, Quantizer] = {"awq-int4": awq, "rtn-int4": rtn}
