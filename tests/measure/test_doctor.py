import subprocess
import sys
import types
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from bitbench.measure import doctor_host, doctor_software
from bitbench.measure.doctor import Finding, examine
from bitbench.measure.doctor_gpu import examine_gpu
from tests.fake_pynvml import H200, T4, install


def by_topic(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.topic: finding for finding in findings}


def gpu_findings(monkeypatch: pytest.MonkeyPatch, **answers: object) -> dict[str, Finding]:
    install(monkeypatch, [H200 | answers])
    return by_topic(examine_gpu("cuda:0"))


def test_a_healthy_gpu_has_nothing_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpu_findings(monkeypatch)
    assert {finding.verdict for finding in found.values()} == {"good"}
    assert found["GPU"].state == "NVIDIA H200, driver 580.159.04, which runs CUDA up to 13.0"
    assert "345 of 1980 MHz" in found["clocks"].state
    assert "700 W" in found["power limit"].state


@pytest.mark.parametrize(
    ("answers", "topic", "verdict", "says"),
    [
        ({"CurrentClocksEventReasons": 0x04}, "throttling", "bad", "sw_power_cap"),
        ({"CurrentClocksEventReasons": 0x02}, "clocks", "note", "applications_clocks_setting"),
        ({"EnforcedPowerLimit": 350_000}, "power limit", "note", "350 W"),
        ({"Temperature": 85}, "temperature", "bad", "85 °C"),
        ({"MigMode": (1, 1)}, "MIG", "note", "divided"),
        ({"EccMode": (0, 1)}, "ECC", "good", "off"),
        ({"PersistenceMode": 0}, "persistence mode", "note", "off"),
        ({"UtilizationRates": types.SimpleNamespace(gpu=40, memory=1)}, "GPU processes", "bad", "40%"),
        (
            {"ComputeRunningProcesses": [types.SimpleNamespace(pid=2**22 + 5, usedGpuMemory=3_000_000_000)]},
            "GPU processes",
            "bad",
            f"process {2**22 + 5} with 3.0 GB",
        ),
        (
            {"MemoryInfo": types.SimpleNamespace(total=100_000_000_000, free=10_000_000_000, used=90_000_000_000)},
            "GPU memory",
            "note",
            "10.0 of 100.0 GB free",
        ),
    ],
)
def test_each_trouble_is_found_with_advice(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, object], topic: str, verdict: str, says: str
) -> None:
    finding = gpu_findings(monkeypatch, **answers)[topic]
    assert finding.verdict == verdict
    assert says in finding.state
    assert finding.advice or verdict == "good"


def test_a_gpu_that_answers_little_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [T4])
    found = by_topic(examine_gpu("cuda:0"))
    assert "Tesla T4" in found["GPU"].state
    assert "power limit" not in found


def test_unlike_gpus_need_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [H200, T4])
    assert "PCI_BUS_ID" in by_topic(examine_gpu("cuda:0"))["GPU order"].advice
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert "GPU order" not in by_topic(examine_gpu("cuda:0"))


def test_without_a_driver_or_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [H200], driver=False)
    assert examine_gpu("cuda:0")[0].state == "no NVIDIA driver found"
    install(monkeypatch, [H200])
    assert "has 1" in examine_gpu("cuda:7")[0].state
    with pytest.raises(ValueError, match="cuda:N"):
        examine("tpu")


def test_examine_covers_the_host_and_the_software(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_host, "_LOOK_S", 0.01)
    found = by_topic(examine("cpu"))
    expected = {"GPU", "processor", "16-bit arithmetic", "CPU governor", "load", "busy processes", "stolen time"}
    assert expected | {"memory", "disk, cache folder", "disk, this folder", "libraries", "C compiler"} <= set(found)
    assert all(finding.state for finding in found.values())
    assert all(finding.advice for finding in found.values() if finding.verdict != "good")


def test_a_busy_neighbour_is_named() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinner:
        try:
            found = by_topic(doctor_host.examine_host())
        finally:
            spinner.kill()
    assert found["busy processes"].verdict == "bad"


def test_stolen_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_host, "_LOOK_S", 0.0)
    times = namedtuple("times", ["user", "steal"])
    monkeypatch.setattr(psutil, "cpu_times_percent", lambda: times(50.0, 30.0))
    assert by_topic(doctor_host.examine_host())["stolen time"].verdict == "bad"


@pytest.mark.parametrize(("governor", "verdict"), [("performance", "good"), ("powersave", "note")])
def test_governor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, governor: str, verdict: str) -> None:
    place = tmp_path / "cpu0" / "cpufreq"
    place.mkdir(parents=True)
    (place / "scaling_governor").write_text(governor + "\n")
    monkeypatch.setattr(doctor_host, "_CPUS", tmp_path)
    finding = doctor_host._governor()
    assert (finding.state, finding.verdict) == (governor, verdict)


@pytest.mark.parametrize(("text", "quota"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None)])
def test_cpu_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, quota: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(doctor_host, "_QUOTA", tmp_path / "cpu.max")
    assert doctor_host._cpu_quota() == quota


def test_missing_libraries_and_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_software, "installed_versions", lambda: {"bitbench": "0.1", "torch": "2.11.0+cpu"})
    monkeypatch.setattr(doctor_software.shutil, "which", lambda _: None)
    monkeypatch.delenv("CC", raising=False)
    found = by_topic(doctor_software.examine_software("cuda:0"))
    assert "transformers" in found["missing libraries"].state
    assert "'bitbench[awq]'" in found["missing libraries"].advice
    assert "without CUDA" in found["torch"].state
    assert found["C compiler"].verdict == "bad"
    on_cpu = by_topic(doctor_software.examine_software("cpu"))
    assert "torch" not in on_cpu
    assert "triton" not in on_cpu["missing libraries"].state
    assert on_cpu["C compiler"].verdict == "good"


def test_needs_no_torch_and_is_quick() -> None:
    code = "import sys; from bitbench.measure.doctor import examine; examine('cpu'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0
