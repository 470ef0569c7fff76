"""Whether a package is installed, told without importing it."""

from collections.abc import Sequence
from importlib.util import find_spec

from bitbench.engines.base import Supported

_INSTALL = {
    "torch": "measure",
    "transformers": "measure",
    "accelerate": "measure",
    "bitsandbytes": "measure",
    "gptqmodel": "awq",
    "lm_eval": "tasks",
}


def missing_packages(needs: Sequence[str]) -> Supported:
    """Whether all of `needs` can be imported; if not, which are missing and what to install."""
    missing = [name for name in needs if find_spec(name) is None]
    if not missing:
        return Supported(True)
    extras = ",".join(sorted({_INSTALL.get(name, name) for name in missing}))
    return Supported(False, f"{', '.join(missing)} not installed: pip install 'bitbench[{extras}]'")
