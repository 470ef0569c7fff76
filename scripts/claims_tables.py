"""The tables of docs/claims.md, each from a committed record."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bitbench.facts.gpus import find
from bitbench.results import store
from bitbench.results.summary import CellSummary, summarize
from bitbench.results.units import bandwidth, gigabytes, percent, significant

GPUS = {"sm_75": "T4", "sm_80": "A100", "sm_89": "RTX 4090", "sm_90": "H100, H200", "sm_100": "B200"}

STARTING = (("FP16", 24.4, "fp16"), ("INT8 (bitsandbytes)", 6.3, "bnb-int8"), ("AWQ INT4", 17.1, "awq-int4"))
"""The starting README's rows on a T4: name, tok/s, and our method that stores the same bytes."""


def table(path: Path, part: str = "") -> str:
    """The table of a record file: one name can hold several parts."""
    key = (path.name if path.suffix == ".json" else "records", part)
    if key not in TABLES:
        raise ValueError(f"no table {part!r} of {path.name}; there are {', '.join(map(str, TABLES))}")
    return TABLES[key](path) + "\n"


def probes(path: Path) -> str:
    """What became of each multiply on each architecture."""
    data = _read(path)
    found = {(r["probe"], r["arch"]): r for r in data["results"]}
    named = [p for p in data["sources"] if (p, "sm_90") in found]
    rows = [[f"`{p}`", *(_probe_cell(found[p, arch]) for arch in GPUS)] for p in named]
    lines = _lines(["instruction", *(f"{arch} ({gpus})" for arch, gpus in GPUS.items())], rows)
    lines += ["", "Number: instructions of the whole kernel, of which the multiply is one where it is native."]
    others = [r for r in data["results"] if r["probe"] not in named]
    lines += [f"`{r['probe']}` for {r['arch']}: {_probe_cell(r, message=True)}." for r in others]
    called = sorted({name for r in data["results"] for name in r.get("calls", ())})
    lines += ["The compiler's names for the emulation: " + ", ".join(f"`{_routine(name)}`" for name in called) + "."]
    return "\n".join([*lines, _tools(data)])


def _probe_cell(result: dict[str, Any], message: bool = False) -> str:
    if result["outcome"] == "refused":
        return f"refused ({result['message']})" if message else "refused"
    parts = [f"{n} x `{opcode}`" if n > 1 else f"`{opcode}`" for opcode, n in result["tensor_core"].items()]
    return f"{result['outcome']}: {', '.join(parts)}; {result['instructions']}"


def _routine(name: str) -> str:
    """`$__internal_0_$__cuda_sm_9x_mma...` -> `__cuda_sm_9x_mma...`."""
    return name.rsplit("$", maxsplit=1)[-1]


def w4a16(path: Path) -> str:
    """What the kernels on 4-bit weights multiply with, a line for each library and architecture."""
    data = _read(path)
    rows = []
    for library in data["libraries"]:
        if library["imports"]:  # bitsandbytes, in the other part
            continue
        for arch, held in library["archs"].items():
            kernels = [k for k in held if _multiplies(k["kernel"])]
            total = sum(k["instances"] for k in kernels)
            half, integer = (sum(k["instances_with"][kind] for k in kernels) for kind in ("HMMA", "IMMA"))
            opcodes = sorted({o for k in kernels for o in k["opcodes"] if o.startswith(("HMMA", "IMMA"))})
            counts = [str(n) for n in (total, half, total - half - integer, integer)]
            rows.append([library["label"], arch, *counts, ", ".join(f"`{o}`" for o in opcodes)])
    head = ["library", "built for", "kernels on 4-bit weights", "with FP16 or BF16 tensor core instructions"]
    head += ["without any", "with integer ones", "tensor core instructions found"]
    return "\n".join([*_lines(head, rows), "", _tools(data)])


def _multiplies(kernel: str) -> bool:
    return any(word in kernel.lower() for word in ("gemm", "gemv", "marlin")) and "repack" not in kernel


def int8(path: Path) -> str:
    """All kernels of the libraries that leave products to cuBLAS."""
    data = _read(path)
    parts = []
    for library in (library for library in data["libraries"] if library["imports"]):
        kernels: dict[str, set[str]] = {}
        for held in library["archs"].values():
            for k in held:
                kernels.setdefault(k["kernel"], set()).update(k["pointers"])
        # Routines of the compiler have no arguments; training has its own kernels.
        shown = {name: pointers for name, pointers in kernels.items() if pointers and "Optimizer" not in name}
        rows = [
            [f"`{name}`", "yes" if "signed char*" in pointers else "no", ", ".join(f"`{p}`" for p in sorted(pointers))]
            for name, pointers in shown.items()
        ]
        integer = sum(k["instances_with"]["IMMA"] for held in library["archs"].values() for k in held)
        parts += _lines(["kernel", "int8 (`signed char`) argument", "pointers to"], rows)
        parts += [
            "",
            f"{library['label']}, built for {' and '.join(library['archs'])}; optimizers left out. "
            f"Kernels with an integer tensor core instruction: {integer}. "
            f"Calls for products: {', '.join(f'`{i}`' for i in library['imports'] if 'Matmul' in i or 'Gemm' in i)}.",
        ]
    return "\n".join([*parts, _tools(data)])


def starting(path: Path) -> str:
    """How much of the T4's bandwidth the starting README's own speeds need."""
    t4 = find("T4")
    assert t4
    rows = []
    for name, tokens_per_s, method in STARTING:
        stored = next(s for s in _summaries(path) if s.method.split(":")[0] == method)
        assert stored.bytes_per_step
        used = tokens_per_s * stored.bytes_per_step
        share = percent(used / t4.bandwidth_bytes_per_s)
        rows.append([name, str(tokens_per_s), gigabytes(stored.bytes_per_step), significant(used / 1e9), f"{share} %"])
    head = ["method", "tok/s on the T4", "GB read a step", "so GB/s", f"of {bandwidth(t4.bandwidth_bytes_per_s)}"]
    return "\n".join(_lines(head, rows))


def memory(path: Path) -> str:
    """The memory figures side by side, GB."""
    figures = ("weights_bytes", "allocated_after_load_bytes", "load_peak_bytes", "peak_memory_bytes")
    rows = [[s.method, *(gigabytes(getattr(s, figure)) for figure in figures)] for s in _summaries(path)]
    head = ["method", "weights, GB", "allocated after load", "peak while loading", "peak while generating"]
    return "\n".join(_lines(head, rows))


def _summaries(path: Path) -> Iterable[CellSummary]:
    loaded = store.read([path])
    return [s for s in summarize(loaded.records, loaded.endings) if s.status == "ok"]


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def _tools(data: dict[str, Any]) -> str:
    return "Tools: " + ", ".join(f"{name} {version}" for name, version in data["tools"].items()) + "."


def _lines(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


TABLES: dict[tuple[str, str], Callable[[Path], str]] = {
    ("instructions.json", ""): probes,
    ("library-instructions.json", "w4a16"): w4a16,
    ("library-instructions.json", "int8"): int8,
    ("records", "starting"): starting,
    ("records", "memory"): memory,
}
