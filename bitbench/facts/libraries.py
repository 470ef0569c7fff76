"""The libraries whose versions can change a measurement, told without importing them."""

from importlib.metadata import PackageNotFoundError, version

from bitbench import __version__

LIBRARIES: dict[str, str] = {
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
    found = {"bitbench": __version__}  # also where it runs from its folder
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
