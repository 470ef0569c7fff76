"""Which libraries are here, which are missing, and what to install."""

import os
import shutil
import sys

from bitbench.facts.libraries import LIBRARIES, installed_versions
from bitbench.measure.finding import Finding

_ON_CPU_TOO = tuple(name for name in LIBRARIES if name != "triton")


def examine_software(device: str) -> list[Finding]:
    """Findings about Python, libraries and the C compiler. Imports none of them."""
    versions = installed_versions()
    found = [Finding("python", f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}")]
    found.append(Finding("libraries", ", ".join(f"{name} {version}" for name, version in versions.items()) or "none"))
    wanted = _ON_CPU_TOO if device == "cpu" else tuple(LIBRARIES)
    missing = [name for name in wanted if name not in versions]
    if missing:
        installs = " ".join(f"'{target}'" for target in dict.fromkeys(LIBRARIES[name] for name in missing))
        found.append(Finding("missing libraries", ", ".join(missing), "note", f"pip install {installs}"))
    if device != "cpu" and "+cpu" in versions.get("torch", ""):
        state = f"torch {versions['torch']} is built without CUDA"
        found.append(
            Finding("torch", state, "bad", "install torch from PyPI's default index, or the CUDA index of pytorch.org")
        )
    found.append(_compiler(device))
    return found


def _compiler(device: str) -> Finding:
    compiler = os.environ.get("CC") or next((path for c in ("cc", "gcc", "clang") if (path := shutil.which(c))), None)
    if compiler:
        return Finding("C compiler", compiler)
    if device == "cpu":
        return Finding("C compiler", "none")
    advice = "triton builds its launchers with one: install gcc, or kernels written in triton do not run"
    return Finding("C compiler", "none", "bad", advice)
