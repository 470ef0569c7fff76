"""Records of the scripts: JSON lines that say where they were measured."""

import json
from pathlib import Path
from typing import Any

from bitbench.results.environment import Environment


def append(line: dict[str, Any], environment: Environment, out: Path | None) -> None:
    """Append a line to a file, where there is one."""
    if out is None:
        return
    line = line | {"device_name": environment.device_name, "versions": environment.versions}
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def tell(line: dict[str, Any], environment: Environment, out: Path | None) -> None:
    """Print a line at once and append it."""
    print(line, flush=True)
    append(line, environment, out)
