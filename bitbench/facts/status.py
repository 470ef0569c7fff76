"""How a cell's process ended, and what can be said about a process that ended well."""

from typing import Literal

Status = Literal[
    "ok",
    "unsupported",
    "out_of_memory",
    "load_error",
    "runtime_error",
    "timeout",
    "incorrect",
    "interrupted",
    "skipped",
]
"""Only `ok` may carry a speed. `skipped`: the run's budget ended first."""

Flag = Literal[
    "throttled",
    "fallback_kernel",
    "unstable",
    "noisy_tokens",
    "busy_device",
    "busy_host",
    "outlier",
    "beats_cache_ceiling",
]
"""Notes on an `ok` record; each has its advice in `results/checks.py`."""

STATUS_MEANING: dict[Status, str] = {
    "ok": "measured",
    "unsupported": "this engine cannot run this method on this device",
    "out_of_memory": "device or host memory was not enough",
    "load_error": "the checkpoint could not be read or loaded",
    "runtime_error": "the worker process failed or died",
    "timeout": "the worker said nothing for longer than its limit",
    "incorrect": "the output failed a check, so its speed means nothing",
    "interrupted": "stopped by the user",
    "skipped": "the budget of the run ended first",
}
