"""The libraries whose versions can change a measurement, told without importing them."""

from importlib.metadata import PackageNotFoundError, version

LIBRARIES: dict[str, str] = {
    "bitbench": "bitbench",
    "torch": "bitbench[measure]",
    "transformers": "bitbench[measure]",
    "accelerate": "bitbench[measure]",
    "bitsandbytes": "bitbench[measure]",
    "gptqmodel": "bitbench[awq]",
    "triton": "triton",
    "numpy": "numpy",
}
"""Distribution name, and what to give to `pip install` to have it."""


def installed_versions() -> dict[str, str]:
    """Version of each library that is installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
