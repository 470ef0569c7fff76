"""The checkpoints that bitbench made: one folder each, with an `origin.json` that says how. Never imports torch.

An entry appears whole or not at all: it is written in a hidden sibling, flushed to disk and renamed. Whoever writes
holds a file lock on its sibling, so a sibling without a holder is what a crash or Ctrl-C left, and the next user
removes it.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import platformdirs
from pydantic import ValidationError

from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Made

CACHE_VARIABLE = "BITBENCH_CACHE"
_ORIGIN = "origin.json"
_PARTIAL = ".partial-"
_LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class Entry(Made):
    """A cached checkpoint. `recipe` is all that decided its content; `created_at` is UTC; `bytes` is what it takes."""

    name: str
    recipe: str
    created_at: str
    bytes: int


def folder() -> Path:
    """Where entries live: $BITBENCH_CACHE, else the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("bitbench"))


def path_of(name: str) -> Path:
    """The folder of an entry, made or not."""
    return folder() / name


def find(name: str, recipe: str) -> Entry | None:
    """The entry of that name, if it is whole and was made by that recipe."""
    entry = _read(path_of(name))
    return entry if entry and entry.recipe == recipe else None


def entries() -> tuple[Entry, ...]:
    """All whole entries by name."""
    root = folder()
    if not root.is_dir():
        return ()
    found = (_read(path) for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return tuple(entry for entry in found if entry)


def clear(names: Sequence[str] | None = None) -> int:
    """Remove these entries (None: everything) and leftovers of crashes; the answer is the bytes freed.

    Raises ValueError naming the entries there are, LoadError where the folder may not be written.
    """
    known = {entry.name: entry for entry in entries()}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"nothing cached as '{unknown[0]}': {', '.join(known) or 'the cache is empty'}")
    if not folder().is_dir():
        return 0
    freed = 0
    with _clear_errors("clearing the cache"), _locked_folder():
        freed += _remove_leftovers()
        for name in known if names is None else dict.fromkeys(names):
            freed += known[name].bytes
            _remove(path_of(name))
    return freed


def get_or_make(name: str, recipe: str, needed_bytes: int, make: Callable[[Path], Made]) -> Entry:
    """The entry `name`; made by `make(empty folder)` where there is none by this recipe.

    `needed_bytes` is asked of the disk before the work starts. Two processes may make the same entry: the first to
    finish wins, the other takes that one. Raises LoadError where the disk is full or the cache cannot be written.
    """
    if entry := find(name, recipe):
        return entry
    with _clear_errors(f"making {name}"):
        folder().mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder()).free
        if free < needed_bytes:
            raise OSError(errno.ENOSPC, f"{needed_bytes / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")
        with _partial_folder(name) as partial:
            made = make(partial)
            size = sum(f.stat().st_size for f in partial.rglob("*") if f.is_file())
            created_at = datetime.now(UTC).isoformat(timespec="seconds")
            entry = Entry(**made.model_dump(), name=name, recipe=recipe, created_at=created_at, bytes=size)
            (partial / _ORIGIN).write_text(entry.model_dump_json(indent=1), encoding="utf-8")
            return _publish(partial, entry)


@contextmanager
def _clear_errors(doing: str) -> Iterator[None]:
    """A full or read-only disk becomes one clear line."""
    try:
        yield
    except OSError as error:
        where = f"set {CACHE_VARIABLE} to a folder elsewhere"
        if error.errno in _FULL:
            free = "free some space, run `bitbench cache clear`"
            raise LoadError(
                f"{doing}: the disk of {folder()} is full ({error.strerror}): {free}, or {where}"
            ) from error
        if error.errno in _FORBIDDEN:
            raise LoadError(f"{doing}: {folder()} cannot be written ({error.strerror}): {where}") from error
        raise LoadError(f"{doing}: {error}") from error


@contextmanager
def _locked_folder() -> Iterator[None]:
    """Held only while siblings are created, published or removed, never while a checkpoint is made."""
    with open(folder() / _LOCK, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _partial_folder(name: str) -> Iterator[Path]:
    """An empty sibling with a lock held on it; removed at the end unless it was renamed."""
    with _locked_folder():
        _remove_leftovers()
        partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{name}-", dir=folder()))
        held = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield partial
    finally:
        if partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
        os.close(held)


def _publish(partial: Path, entry: Entry) -> Entry:
    """Flush and rename. Where another process was first, its entry is the answer."""
    partial.chmod(0o755)
    for path in [*partial.rglob("*"), partial]:
        _flush(path)
    with _locked_folder():
        target = path_of(entry.name)
        if other := find(entry.name, entry.recipe):
            return other
        if target.exists():
            _remove(target)
        os.rename(partial, target)
        _flush(folder())
    return entry


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Hide first, then delete, so that a half-deleted entry is a leftover and never an entry."""
    hidden = path.with_name(f"{_PARTIAL}removed-{path.name}-{os.getpid()}")
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def _remove_leftovers() -> int:
    """Delete the siblings that nobody holds; the answer is their bytes. The folder's lock must be held."""
    freed = 0
    for path in folder().glob(f"{_PARTIAL}*"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            freed += sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
            shutil.rmtree(path)
        finally:
            os.close(descriptor)
    return freed


def _read(path: Path) -> Entry | None:
    """The entry in a folder; None where it is missing, damaged or no longer what was written."""
    try:
        entry = Entry.model_validate_json((path / _ORIGIN).read_text(encoding="utf-8"))
        size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and f.name != _ORIGIN)
    except (OSError, ValidationError):
        return None
    return entry if size == entry.bytes and entry.name == path.name else None
