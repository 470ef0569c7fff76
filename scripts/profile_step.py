"""What the warps of the step kernel wait for, instruction by instruction, by Nsight Compute's samples (needs `ncu`).

Prints, and with --out appends as one JSON line, the share of each reason in all samples, and the stretches of machine
code between two meetings, votes or stores that have most samples: how often their instructions were executed, which
operations, and why warps stood there.

    python scripts/profile_step.py shape:qwen2.5-0.5b --method awq-int4 --out FILE
"""

import argparse
import csv
import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from decode_steps import DEVICE, STORED, loaded, source_hash
from lines import append

from bitbench.decode.step_kernel import on_cuda
from bitbench.results.machine import collect

_ENDS = re.compile(r"\b(BAR\.SYNC|WARPSYNC|STG|VOTE)")
_LEAST_SHARE = 0.3
_STEPS = 64


def rows(text: str) -> list[dict[str, str]]:
    """One for each instruction, from a page that names the kernel before."""
    lines = text.splitlines()
    return list(csv.DictReader(lines[next(i for i, line in enumerate(lines) if line.startswith('"Address"')) :]))


def reasons(row: dict[str, str]) -> Counter[str]:
    """Samples of one instruction by the reason, without `stall_`, whether or not another was issued meanwhile."""
    names = [name for name in row if name.startswith("stall_") and "Not Issued" not in name]
    return Counter({name.removeprefix("stall_"): _number(row[name]) for name in names if _number(row[name])})


def shares(found: Counter[str], all_samples: int, least: float = 0.0) -> dict[str, float]:
    """Per cent of all samples, the greatest first."""
    of_all = {name: 100 * count / all_samples for name, count in found.most_common()}
    return {name: round(share, 2) for name, share in of_all.items() if share >= least}


def operations(piece: list[dict[str, str]]) -> dict[str, int]:
    """Instructions that warps executed, by their names without what follows a point; the ten most frequent."""
    found: Counter[str] = Counter()
    for row in piece:
        words = [word for word in row["Source"].split() if not word.startswith("@")]
        found[words[0].partition(".")[0]] += _number(row["Instructions Executed"])
    return dict(found.most_common(10))


def stretches(page: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Machine code cut behind each meeting of warps or lanes and each store: its first instruction's number, how often
    an instruction of it was executed, in the mean over them, samples by reasons, how often which operations were
    executed, and its last instruction.
    """
    found, first = [], 0
    for i, row in enumerate(page):
        if not _ENDS.search(row["Source"]) and i + 1 < len(page):
            continue
        piece = page[first : i + 1]
        executed = statistics.mean(_number(one["Instructions Executed"]) for one in piece)
        why = sum((reasons(one) for one in piece), Counter())
        found.append({"first": first, "instructions": len(piece), "executed": round(executed), "why": why})
        found[-1] |= {"operations": operations(piece), "last": row["Source"].strip()}
        first = i + 1
    return found


def summary(page: list[dict[str, str]]) -> dict[str, Any]:
    """What is printed and kept."""
    whole = sum((reasons(row) for row in page), Counter())
    kept = []
    for one in stretches(page):
        share = 100 * one["why"].total() / whole.total()
        if share >= _LEAST_SHARE:
            kept.append(one | {"share": round(share, 2), "why": shares(one["why"], whole.total(), 0.1)})
    return {"samples": whole.total(), "instructions": len(page), "why": shares(whole, whole.total()), "stretches": kept}


def _number(text: str) -> int:
    return int(text.replace(",", "") or 0)


def profiled(arguments: argparse.Namespace) -> str:
    """The source page of the second launch, whose steps find all in place. Raises CalledProcessError."""
    again = [sys.executable, __file__, arguments.model, "--method", arguments.method, "--batch", str(arguments.batch)]
    with TemporaryDirectory() as folder:
        report = f"{folder}/steps"
        kept = ["ncu", "--section", "SourceCounters", "--clock-control", "none", "-k", "decode_steps", "-o", report]
        subprocess.run([*kept, "--launch-skip", "1", "--launch-count", "1", *again, "--take-steps"], check=True)
        shown = ["ncu", "-i", f"{report}.ncu-rep", "--page", "source", "--print-source", "sass", "--csv"]
        return subprocess.run(shown, check=True, capture_output=True, text=True).stdout


def take_steps(model: str, method: str, batch: int) -> None:
    """Twice, from position 40 on."""
    kernel = on_cuda(loaded(model, method, STORED[method]).forward, DEVICE, 256, batch_size=batch, places=0)
    for _ in range(2):
        kernel.start_all([list(range(100, 140))] * batch)
        kernel.advance(_STEPS)
        torch.cuda.synchronize()


def main() -> None:
    """One summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", choices=tuple(STORED), default="awq-int4")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--take-steps", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.take_steps:
        take_steps(arguments.model, arguments.method, arguments.batch)
        return
    line = {"model": arguments.model, "method": arguments.method, "batch": arguments.batch, "steps": _STEPS}
    line |= summary(rows(profiled(arguments))) | {"kernel_source": source_hash()}
    print({name: value for name, value in line.items() if name != "stretches"})
    for one in line["stretches"]:
        print(one)
    append(line, collect(DEVICE), arguments.out)


if __name__ == "__main__":
    main()
