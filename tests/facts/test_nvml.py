import pytest

from bitbench.facts.nvml import cuda_index, device_names, open_device
from tests.fake_pynvml import H200, T4, install


def name_of(device: str) -> str | None:
    found = open_device(device)
    return found.ask_text("Name") if found else None


def test_index_and_its_errors() -> None:
    assert (cuda_index("cuda"), cuda_index("cuda:3")) == (0, 3)
    for wrong in ("cpu", "cuda:x", "cuda:-1", "cudax"):
        with pytest.raises(ValueError, match="cuda:N"):
            cuda_index(wrong)


def test_visible_devices_by_number_and_by_beginning_of_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [H200, T4])
    assert (name_of("cuda:0"), name_of("cuda:1"), name_of("cuda:2")) == ("NVIDIA H200", "Tesla T4", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 0")
    assert (name_of("cuda"), name_of("cuda:1")) == ("Tesla T4", "NVIDIA H200")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb")
    assert (name_of("cuda:0"), name_of("cuda:1")) == ("Tesla T4", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert name_of("cuda:0") is None


def test_refused_and_unknown_questions_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [T4])
    found = open_device("cuda:0")
    assert found is not None
    assert found.ask("TotalEnergyConsumption") is None  # NVML refuses
    assert found.ask("NoSuchQuestion") is None  # the bindings do not know it


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [H200], driver=False)
    assert open_device("cuda:0") is None
    assert device_names() == ()
