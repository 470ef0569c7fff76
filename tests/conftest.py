"""A cache of their own for all tests, and the demo checkpoint, converted once for all test processes."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitbench.facts.messages import Checkpoint, PrepareTask
from bitbench.facts.models import parse_model

# Without a GPU Triton's kernels run under its interpreter, which must be asked for before anything imports Triton.
if not shutil.which("nvidia-smi"):
    os.environ.setdefault("TRITON_INTERPRET", "1")
# As many test processes as cores: torch's threads that spin until there is work for them take a core from another
# process. OpenMP reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """One folder for all processes of a pytest-xdist run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def temporary_cache(shared_folder: Path) -> Iterator[Path]:
    """Tests and their child processes never touch the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITBENCH_CACHE", str(shared_folder / "cache"))
        patch.setenv("GPTQMODEL_CPU_WORKERS", "2")
        yield shared_folder / "cache"


@pytest.fixture(scope="session")
def demo_checkpoint(temporary_cache: Path, shared_folder: Path) -> Checkpoint:
    """The demo's 16-bit checkpoint."""
    from bitbench.methods.checkpoint import prepare

    with open(shared_folder / "demo.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return prepare(PrepareTask(model=parse_model("demo"), method="fp16", device="cpu"), lambda _: None)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    monkeypatch.setenv("BITBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
