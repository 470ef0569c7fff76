"""The record file: JSON lines, appended the moment a cell's process ends, so that a crash loses nothing before it."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bitbench.results.record import LINE, SCHEMA_VERSION, Ending, Line, QualityRecord, Record

Document = dict[str, Any]

MIGRATIONS: dict[int, Callable[[Document], Document]] = {version: lambda document: document for version in (1, 2, 3, 4)}
"""From each older schema version to the next. All so far only added fields that may be missing."""

_PROBE = b"\n" * 65_536
"""Blank lines, about as much as a few records: written and taken back to learn whether the disk has room."""


class StoreError(ValueError):
    """A record file cannot be read or written; the message is one line for the user."""


class _NotOurs(Exception):
    """JSON, but no line of a record file."""


@dataclass(frozen=True)
class Loaded:
    """What record files hold, in file order. `problems` are lines for the user about what was left out."""

    records: tuple[Record, ...]
    endings: tuple[Ending, ...]
    qualities: tuple[QualityRecord, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass
class _Reading:
    """Gathers lines of all files; the same line twice (a file named twice, or copied) counts once."""

    lines: list[Line] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    num_repeated: int = 0


def append(path: str | Path, line: Line) -> None:
    """Add one line: one write, flushed to the disk. After a failure the file is as long as before.

    Raises StoreError for a missing folder, a read-only or a full disk.
    """
    _append_bytes(Path(path), line.model_dump_json().encode() + b"\n", keep=True)


def check_writable(path: str | Path) -> None:
    """Raise StoreError, before a run begins, where `path` cannot be appended to. Leaves the file as it was, or
    absent.
    """
    path = Path(path)
    existed = path.exists()
    try:
        _append_bytes(path, _PROBE, keep=False)
    finally:
        if not existed and path.is_file():
            path.unlink()


def _append_bytes(path: Path, data: bytes, keep: bool) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(_cannot_write(path, error)) from error
    try:
        _lock(fd)
        old_length = os.fstat(fd).st_size
        try:
            _write_once(fd, data, old_length)
        except OSError as error:
            _cut(fd, old_length)
            raise StoreError(_cannot_write(path, error)) from error
        if not keep:
            _cut(fd, old_length)
    finally:
        os.close(fd)


def _write_once(fd: int, data: bytes, old_length: int) -> None:
    """One write and a flush. A last line broken by a crash is closed first, so that the new one stands on its own."""
    if old_length and os.pread(fd, 1, old_length - 1) != b"\n":
        data = b"\n" + data
    written = os.write(fd, data)
    if written != len(data):
        raise OSError(f"only {written} of {len(data)} bytes could be written: the disk is full")
    os.fsync(fd)


def _cut(fd: int, length: int) -> None:
    try:
        os.ftruncate(fd, length)
    except OSError:  # not a regular file: there is nothing to take back
        return


def _lock(fd: int) -> None:
    """Two runs may append to one file; without the lock a cut could take the other's line."""
    try:
        import fcntl
    except ImportError:  # Windows, where records are read but no measuring is done
        return
    fcntl.flock(fd, fcntl.LOCK_EX)


def _cannot_write(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"cannot write records to {path}: there is no folder {path.parent}"
    return f"cannot write records to {path}: {error.strerror or error}"


def read(paths: Iterable[str | Path]) -> Loaded:
    """Read record files. A broken line is left out and named in `problems`; older schemas are migrated.

    Raises StoreError for a file that is missing or comes from a newer bitbench.
    """
    reading = _Reading()
    for path in paths:
        _read_file(Path(path), reading)
    if reading.num_repeated:
        reading.problems.append(f"{reading.num_repeated} lines stand there twice (the same run) and count once")
    return Loaded(
        records=tuple(line for line in reading.lines if isinstance(line, Record)),
        endings=tuple(line for line in reading.lines if isinstance(line, Ending)),
        qualities=tuple(line for line in reading.lines if isinstance(line, QualityRecord)),
        problems=tuple(reading.problems),
    )


def _read_file(path: Path, reading: _Reading) -> None:
    try:
        text = path.read_bytes().decode(errors="replace")
    except FileNotFoundError as error:
        raise StoreError(f"there is no record file {path}") from error
    except OSError as error:
        raise StoreError(f"cannot read the record file {path}: {error.strerror or error}") from error
    rows = text.split("\n")
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        if row in reading.seen:
            reading.num_repeated += 1
            continue
        reading.seen.add(row)
        _read_row(row, f"{path}:{number}", number == len(rows), reading)


def _read_row(row: str, where: str, unfinished: bool, reading: _Reading) -> None:
    try:
        document = json.loads(row)
    except ValueError:
        end = "the last line was cut off (a crash while it was written?)" if unfinished else "this line is not JSON"
        reading.problems.append(f"{where}: {end}; it is left out")
        return
    try:
        reading.lines.append(_parse(document, where))
    except _NotOurs as error:
        reading.problems.append(f"{where}: not a record ({error}); it is left out")
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        reading.problems.append(f"{where}: not a record ({at}: {first['msg']}); it is left out")


def _parse(document: Any, where: str) -> Line:
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise _NotOurs("it has no schema_version")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{where}: from a newer bitbench (schema {version}); this one reads up to {SCHEMA_VERSION}: upgrade it"
        )
    return LINE.validate_python(migrate(document, version, where))


def migrate(document: Document, version: int, where: str) -> Document:
    """Bring a line of an older schema to this one, step by step. `where` is for the message.

    Raises StoreError where a step is missing.
    """
    while version < SCHEMA_VERSION:
        if version not in MIGRATIONS:
            raise StoreError(f"{where}: its schema {version} is older than any that this bitbench can read")
        document = {**MIGRATIONS[version](document), "schema_version": version + 1}
        version += 1
    return document
