"""Reads durations, percentages and devices, and turns bad input into one clear line."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_UNITS_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
BAD_INPUT = 2


@contextmanager
def usage_errors() -> Iterator[None]:
    """Print a user's error as one line and exit with 2."""
    from bitbench.facts.errors import LoadError

    try:
        yield
    except (ValueError, LoadError) as error:
        print(f"bitbench: {error}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(BAD_INPUT) from error


def parse_duration(text: str, option: str) -> float | None:
    """Seconds of `90s`, `10m`, `2h`, `1.5m`; None for `none`. Raises ValueError naming the forms."""
    if text == "none":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match or float(match[1]) == 0:
        raise ValueError(f"{option} takes a time such as 90s, 10m or 2h, or none; not '{text}'")
    return float(match[1]) * _UNITS_S[match[2]]


def parse_bytes(text: str, option: str) -> int:
    """Bytes of `2GB`, `500MB`, `1.5GB` (powers of ten). Raises ValueError naming the forms."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(MB|GB|TB)", text, re.IGNORECASE)
    if not match or float(match[1]) == 0:
        raise ValueError(f"{option} takes a size such as 500MB or 2GB; not '{text}'")
    return int(float(match[1]) * _UNITS_BYTES[match[2].upper()])


def parse_percent(text: str, option: str) -> float:
    """A fraction from `3%` or `0.03`. Raises ValueError naming the forms."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise ValueError(f"{option} takes a share such as 3% or 0.03; not '{text}'")
    return value


def parse_device(text: str | None) -> str:
    """`cpu` or `cuda:INDEX`; None: the first GPU, if there is one. Raises ValueError naming the devices there are."""
    found = _num_gpus()
    if text is None:
        return "cuda:0" if found else "cpu"
    valid = ["cpu", *(f"cuda:{i}" for i in range(found))]
    device = "cuda:0" if text == "cuda" else text
    if device not in valid:
        hint = "" if found else "; no NVIDIA GPU is visible here"
        raise ValueError(f"no device '{text}': choose from {', '.join(valid)}{hint}")
    return device


def _num_gpus() -> int:
    from bitbench.facts.nvml import open_device

    found = 0
    while open_device(f"cuda:{found}") is not None:
        found += 1
    return found
