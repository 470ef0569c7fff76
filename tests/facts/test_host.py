from pathlib import Path

import pytest

from bitbench.facts import host


def cache(folder: Path, cpu: int, index: int, level: int, kind: str, size: str, sharers: str) -> None:
    place = folder / f"cpu{cpu}" / "cache" / f"index{index}"
    place.mkdir(parents=True)
    for name, text in (("level", str(level)), ("type", kind), ("size", size), ("shared_cpu_list", sharers)):
        (place / name).write_text(text + "\n")


def test_each_last_level_cache_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "usable_cpus", lambda: (0, 1, 2))
    for cpu, sharers in ((0, "0-1"), (1, "0-1"), (2, "2-3")):
        cache(tmp_path, cpu, 0, 1, "Data", "32K", str(cpu))
        cache(tmp_path, cpu, 1, 1, "Instruction", "32K", str(cpu))
        cache(tmp_path, cpu, 3, 3, "Unified", "16M", sharers)
    assert host.last_level_cache_bytes(tmp_path) == 2 * 16 * 2**20


def test_no_cache_files_is_unknown(tmp_path: Path) -> None:
    assert host.last_level_cache_bytes(tmp_path) is None


def test_this_machine_has_a_processor() -> None:
    assert host.cpu_name()
    assert len(host.usable_cpus()) >= 1
