"""Kernels that give the same numbers each time, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.methods.models import write_model

ROOT = Path(__file__).resolve().parent.parent.parent


def test_plain_products_repeat_on_a_cpu(tmp_path):
    write_model(tmp_path / "model")
    out = tmp_path / "o.json"
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "kernel_repeats.py"), str(tmp_path / "model"), "--method", "bf16",
         "--device", "cpu", "--prompts", "1", "--out", str(out)],
        env=os.environ | {"BITBENCH_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)},
        capture_output=True, check=True,
    )  # fmt: skip
    found = json.loads(out.read_text())["bf16"]
    assert found == {"runs_equal": [True] * 2, "reading_equal": [True] * 3, "reading_rms": [0.0] * 3}
