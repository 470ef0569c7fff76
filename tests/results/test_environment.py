import json
import socket
import subprocess
import sys
import types

import pytest

from bitbench.results.environment import Environment
from bitbench.results.machine import collect
from tests.fake_pynvml import H200, T4, install


def test_gpu_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [T4, H200])
    environment = collect("cuda:1")
    gpu = environment.gpu
    assert gpu is not None
    assert (gpu.name, gpu.driver, gpu.compute_capability) == ("NVIDIA H200", "580.159.04", "9.0")
    assert (gpu.memory_bytes, gpu.power_limit_w) == (150_000_000_000, 700.0)
    assert (gpu.max_sm_clock_hz, gpu.max_memory_clock_hz) == (1.98e9, 3.201e9)
    assert environment.device_name == "NVIDIA H200"
    assert environment.last_level_cache_bytes == 60 * 2**20  # the GPU's, not the processor's
    assert "aaaa" not in environment.model_dump_json()


def test_a_gpu_that_answers_little(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [T4])
    gpu = collect("cuda").gpu
    assert gpu is not None
    assert gpu.name == "Tesla T4"
    assert (gpu.memory_bytes, gpu.power_limit_w, gpu.compute_capability) == (None, None, None)


def test_a_missing_gpu_and_an_unknown_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [T4])
    with pytest.raises(ValueError, match="no such GPU: 'cuda:1'"):
        collect("cuda:1")
    with pytest.raises(ValueError, match="tpu"):
        collect("tpu")


def test_two_looks_at_one_machine_pool_and_other_hardware_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = dict(H200)
    install(monkeypatch, [moved])
    before = collect("cuda:0")
    moved |= {
        "Temperature": 80,
        "PowerUsage": 650_000,
        "MemoryInfo": types.SimpleNamespace(total=150_000_000_000, free=1, used=149_999_999_999),
    }
    assert collect("cuda:0").pool_key == before.pool_key
    moved["UUID"] = "GPU-cccc-3333"
    assert collect("cuda:0").pool_key != before.pool_key


@pytest.mark.parametrize(
    ("change", "same_pool"),
    [
        ({"memory_bytes": 1}, True),  # virtual machines that give memory on demand
        ({"machine": "another"}, False),
        ({"versions": {"torch": "0"}}, False),
        ({"system": "Linux 0"}, False),
    ],
)
def test_what_splits_a_pool(change: dict[str, object], same_pool: bool) -> None:
    here = collect("cpu")
    assert (here.model_copy(update=change).pool_key == here.pool_key) is same_pool


def test_cpu_environment_names_no_host_and_survives_the_disk() -> None:
    here = collect("cpu")
    assert here.gpu is None
    assert here.num_cpus >= 1
    assert here.versions["bitbench"]
    assert json.dumps(socket.gethostname()) not in here.model_dump_json()
    assert Environment.model_validate_json(here.model_dump_json()).pool_key == here.pool_key


def test_fake_is_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    key = collect("fake").pool_key
    monkeypatch.setattr("bitbench.results.machine.installed_versions", lambda: {"torch": "0"})
    assert collect("fake").pool_key == key


def test_needs_no_torch() -> None:
    code = "import sys; from bitbench.results.machine import collect; collect('cpu'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
