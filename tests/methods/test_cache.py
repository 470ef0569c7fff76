"""Entries appear whole or not at all, and a cache that can't be written says so."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitbench.facts.errors import LoadError
from bitbench.methods import cache

MADE = cache.Made(origin="a test", content_hash="0" * 64, notes=("note",), group_size=64)


def maker(folder: Path) -> cache.Made:
    (folder / "weights").write_bytes(b"x" * 1000)
    return MADE


def test_an_entry_is_made_once_and_listed(own_cache: Path) -> None:
    calls = []

    def make(folder: Path) -> cache.Made:
        calls.append(folder)
        return maker(folder)

    first = cache.get_or_make("one", "recipe", 0, make)
    assert cache.get_or_make("one", "recipe", 0, make) == first == cache.find("one", "recipe")
    assert len(calls) == 1
    assert cache.entries() == (first,)
    assert (first.bytes, first.origin, first.notes, first.group_size) == (1000, "a test", ("note",), 64)
    assert (own_cache / "one" / "weights").stat().st_size == 1000


def test_another_recipe_or_a_damaged_entry_is_made_again(own_cache: Path) -> None:
    cache.get_or_make("one", "old", 0, maker)
    assert cache.get_or_make("one", "new", 0, maker).recipe == "new"
    (own_cache / "one" / "weights").write_bytes(b"short")
    assert cache.entries() == ()
    assert cache.get_or_make("one", "new", 0, maker).bytes == 1000


def test_clear_frees_what_is_named_and_refuses_what_is_not(own_cache: Path) -> None:
    for name in ("one", "two", "three"):
        cache.get_or_make(name, "recipe", 0, maker)
    with pytest.raises(ValueError, match="'four': one, three, two"):
        cache.clear(["four"])
    assert cache.clear(["one"]) == 1000
    assert [e.name for e in cache.entries()] == ["three", "two"]
    assert cache.clear() == 2000
    assert cache.entries() == ()


def test_clear_of_a_cache_that_never_was(own_cache: Path) -> None:
    assert cache.clear() == 0
    assert not own_cache.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_maker_that_fails_leaves_nothing(own_cache: Path, error: type[BaseException]) -> None:
    def make(folder: Path) -> cache.Made:
        maker(folder)
        raise error

    with pytest.raises(error):
        cache.get_or_make("one", "recipe", 0, make)
    assert [p.name for p in own_cache.iterdir()] == [".lock"]


_SLOW_MAKER = """
import sys, time
from bitbench.methods import cache
def make(folder):
    (folder / "weights").write_bytes(b"x" * 5000)
    print("writing", flush=True)
    time.sleep(60)
cache.get_or_make("one", "recipe", 0, make)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_not_before(own_cache: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", _SLOW_MAKER], stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "writing\n"
    cache.get_or_make("two", "recipe", 0, maker)
    assert len(list(own_cache.glob(".partial-one*"))) == 1  # its owner lives
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert cache.find("one", "recipe") is None
    cache.get_or_make("three", "recipe", 0, maker)
    assert not list(own_cache.glob(".partial-*"))


def _race(folder: str, results) -> None:
    os.environ["BITBENCH_CACHE"] = folder

    def make(path: Path) -> cache.Made:
        time.sleep(0.3)
        return maker(path)

    results.put(cache.get_or_make("one", "recipe", 0, make).created_at)


def test_two_processes_may_race(own_cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    racers = [context.Process(target=_race, args=(str(own_cache), results)) for _ in range(2)]
    for racer in racers:
        racer.start()
    stamps = {results.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert len(cache.entries()) == 1
    assert cache.entries()[0].created_at in stamps
    assert not list(own_cache.glob(".partial-*"))


def test_too_little_disk_is_said_before_the_work(own_cache: Path) -> None:
    with pytest.raises(LoadError, match=r"is full .*GB needed.*bitbench cache clear"):
        cache.get_or_make("one", "recipe", 10**18, lambda folder: pytest.fail("made"))


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "is full"), (errno.EROFS, "cannot be written"), (errno.EIO, "Input/output")]
)
def test_a_disk_that_fails_is_one_clear_line(own_cache: Path, number: int, words: str) -> None:
    def make(folder: Path) -> cache.Made:
        raise OSError(number, os.strerror(number))

    with pytest.raises(LoadError, match=words) as caught:
        cache.get_or_make("one", "recipe", 0, make)
    assert "\n" not in str(caught.value)
    assert not list(own_cache.glob(".partial-*"))


def test_a_cache_below_a_file_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BITBENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(LoadError, match="making one"):
        cache.get_or_make("one", "recipe", 0, maker)
    assert cache.entries() == ()
