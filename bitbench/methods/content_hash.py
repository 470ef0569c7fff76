"""What identifies a checkpoint's numbers: SHA-256 over its config and safetensors files.

Defined as the SHA-256 of one line `NAME SHA256-OF-CONTENT` for config.json and for each weight file, by name. The
digest of a big file is remembered under (path, size, modification time), so that hashing costs something only once.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bitbench.methods import cache

_MEMORY = ".hashes.json"
_REMEMBER_FROM_BYTES = 1 << 20
_MOST_REMEMBERED = 1000


def content_hash(files: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> str:
    """64 hexadecimal digits for these files, whatever the order they are given in.

    `progress(done, total)` counts bytes. Raises OSError where a file cannot be read.
    """
    total = sum(f.stat().st_size for f in files)
    known = _recall()
    fresh: dict[str, str] = {}
    lines, done = [], 0
    for path in sorted(files, key=lambda f: f.name):
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        digest = known.get(key) or _digest(path)
        if key not in known and stat.st_size >= _REMEMBER_FROM_BYTES:
            fresh[key] = digest
        lines.append(f"{path.name} {digest}\n")
        done += stat.st_size
        if progress:
            progress(done, total)
    if fresh:
        _remember(known | fresh)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def text_hash(text: str) -> str:
    """64 hexadecimal digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recall() -> dict[str, str]:
    try:
        known = json.loads((cache.folder() / _MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(known: dict[str, str]) -> None:
    """Keep the newest digests. A cache that cannot be written only means hashing again next time."""
    newest = dict(list(known.items())[-_MOST_REMEMBERED:])
    try:
        cache.folder().mkdir(parents=True, exist_ok=True)
        temporary = cache.folder() / f"{_MEMORY}.{os.getpid()}"
        temporary.write_text(json.dumps(newest), encoding="utf-8")
        os.replace(temporary, cache.folder() / _MEMORY)
    except OSError:
        return
