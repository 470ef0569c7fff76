import threading
import time
from pathlib import Path

import pytest

from bitbench.facts import host
from bitbench.measure.power import PowerWatch
from bitbench.measure.power_sources import CpuSource, NvmlSource, source_of
from tests.fake_pynvml import H200, T4, install


def test_gpu_sample_in_si_units(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [H200])
    sample = source_of("cuda:0").look()
    assert (sample.energy_j, sample.power_w, sample.temperature_c) == (12.345, 76.5, 31.0)
    assert (sample.sm_clock_hz, sample.memory_clock_hz) == (345e6, 3.201e9)
    assert sample.throttle_reasons == ()  # idle is not throttling
    assert abs(sample.at_s - time.monotonic()) < 5


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x04, ("sw_power_cap",)),
        (0x08 | 0x40, ("hw_slowdown", "hw_thermal_slowdown")),
        (0x20 | 0x80, ("sw_thermal_slowdown", "hw_power_brake")),
        (0x01 | 0x02 | 0x10 | 0x100 | 0x400, ()),  # idle, settings, highest voltage
    ],
)
def test_only_what_slows_a_busy_gpu_is_throttling(
    monkeypatch: pytest.MonkeyPatch, bits: int, names: tuple[str, ...]
) -> None:
    install(monkeypatch, [H200 | {"CurrentClocksEventReasons": bits}])
    assert source_of("cuda:0").look().throttle_reasons == names


def test_refusals_are_none_and_the_old_name_of_reasons_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [T4])
    sample = source_of("cuda:0").look()
    assert (sample.energy_j, sample.power_w, sample.throttle_reasons) == (None, None, ())
    import pynvml

    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda _: 0x04, raising=False)
    assert source_of("cuda:0").look().throttle_reasons == ("sw_power_cap",)


def test_watch_samples_in_a_thread_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    lookers = set()

    def energy() -> int:
        lookers.add(threading.current_thread().name)
        return time.monotonic_ns() // 1_000_000

    install(monkeypatch, [H200 | {"TotalEnergyConsumption": energy}])
    with PowerWatch("cuda:0", period_s=0.005) as watch:
        assert watch.is_watching
        deadline = time.monotonic() + 10
        while "power-watch" not in lookers and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not watch.is_watching
    samples = watch.samples()
    assert "power-watch" in lookers
    times = [sample.at_s for sample in samples]
    assert times == sorted(times)
    assert watch.samples() == samples  # nothing more after leaving


def test_samples_since_reach_from_before_the_moment_to_now(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [H200])
    with PowerWatch("cuda:0", period_s=0.005) as watch:
        time.sleep(0.05)
        since = time.monotonic()
        time.sleep(0.05)
        until = time.monotonic()
        samples = watch.samples(since)
    assert samples[0].at_s < since <= samples[1].at_s
    assert samples[-1].at_s >= until


def test_a_driver_that_dies_while_watching_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = dict(H200)
    install(monkeypatch, [gpu])
    with PowerWatch("cuda:0", period_s=0.005) as watch:
        gpu.clear()
        time.sleep(0.05)  # the thread looks at least once on an idle machine; leaving looks once in any case
        assert watch.is_watching
    assert watch.samples()[0].energy_j == 12.345
    assert watch.samples()[-1].energy_j is None


@pytest.mark.parametrize("device", ["cuda:0", "fake"])
def test_nothing_readable_needs_no_thread(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    install(monkeypatch, [], driver=False)
    with PowerWatch(device) as watch:
        assert not watch.is_watching
        samples = watch.samples()
    assert len(samples) == 2
    assert all(sample.energy_j is None and sample.at_s > 0 for sample in samples)


def test_an_error_inside_passes_through_and_stops_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [H200])
    watch = PowerWatch("cuda:0")
    with pytest.raises(KeyError), watch:
        raise KeyError
    assert not watch.is_watching


def rapl(folder: Path, zone: str, name: str, energy_uj: int, range_uj: int = 10_000_000) -> Path:
    place = folder / zone
    place.mkdir(parents=True)
    (place / "name").write_text(name + "\n")
    (place / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (place / "energy_uj").write_text(f"{energy_uj}\n")
    return place / "energy_uj"


def test_rapl_sums_packages_and_counts_turns(tmp_path: Path) -> None:
    first = rapl(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    rapl(tmp_path, "intel-rapl:0:0", "core", 5_000_000)
    rapl(tmp_path, "intel-rapl:1", "package-1", 1_000_000)
    rapl(tmp_path, "intel-rapl:2", "psys", 8_000_000)
    rapl(tmp_path, "intel-rapl-mmio:0", "package-0", 9_000_000)
    source = CpuSource(tmp_path, tmp_path)
    assert source.changes
    assert source.look().energy_j == pytest.approx(10.0)
    first.write_text("500000\n")  # turned: 9.0 -> 10.0 = 0 -> 0.5
    assert source.look().energy_j == pytest.approx(11.5)
    first.write_text("700000\n")
    assert source.look().energy_j == pytest.approx(11.7)
    first.unlink()
    assert source.look().energy_j is None  # half a sum would be a wrong one


def test_cpu_clock_is_the_mean_of_the_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "usable_cpus", lambda: (0, 2))
    for cpu, khz in ((0, 2_000_000), (1, 9_000_000), (2, 3_000_000)):
        place = tmp_path / f"cpu{cpu}" / "cpufreq"
        place.mkdir(parents=True)
        (place / "scaling_cur_freq").write_text(f"{khz}\n")
    sample = CpuSource(tmp_path, tmp_path).look()
    assert sample.sm_clock_hz == 2.5e9
    assert sample.energy_j is None


def test_unreadable_cpu_has_no_thread(tmp_path: Path) -> None:
    assert not CpuSource(tmp_path, tmp_path).changes


def test_the_source_fits_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [H200])
    assert isinstance(source_of("cuda:0"), NvmlSource)
    assert isinstance(source_of("cpu"), CpuSource)
    with pytest.raises(ValueError, match="cuda:N"):
        source_of("cuda:x")


def test_what_changes_slowly_is_asked_for_in_one_look_of_four(monkeypatch):
    install(monkeypatch, [H200])
    source = source_of("cuda:0")
    looks = [source.look() for _ in range(8)]
    assert [look.power_w is not None for look in looks] == [True, False, False, False] * 2
    assert all(look.energy_j is not None and look.sm_clock_hz is not None for look in looks)
