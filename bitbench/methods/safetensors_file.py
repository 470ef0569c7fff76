"""Safetensors files without torch: write them tensor by tensor, check that they are whole, hash them.

The format (huggingface/safetensors, README "Format"): 8 bytes little-endian header length, a JSON header with each
tensor's dtype, shape and [begin, end) offsets into the data, then the data.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitbench.facts.errors import LoadError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Small enough for a host with little memory to page, as transformers' own default is of this order.
SHARD_BYTES = 4 * 10**9
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_ITEM_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written: `dtype` is the format's name for it (F16, BF16, F32, I32)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the data."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


def write(
    folder: Path,
    specs: Sequence[TensorSpec],
    data: Iterable[Any],
    done: Callable[[str], None],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `data`, contiguous numpy arrays in the order of `specs`, as one file or as shards with an index.

    Only one tensor need be in memory at a time. `done(name)` is called after each. OSError where the disk is full.
    """
    shards = _shards(specs, shard_bytes)
    names = [WEIGHTS] if len(shards) == 1 else _shard_names(len(shards))
    arrays = iter(data)
    for name, shard in zip(names, shards, strict=True):
        with open(folder / name, "wb") as file:
            file.write(_header(shard))
            for spec in shard:
                array = next(arrays)
                assert array.nbytes == spec.num_bytes and array.flags.c_contiguous, spec
                file.write(memoryview(array).cast("B"))
                done(spec.name)
    if len(shards) > 1:
        weight_map = {spec.name: name for name, shard in zip(names, shards, strict=True) for spec in shard}
        index = {"metadata": {"total_size": sum(s.num_bytes for s in specs)}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def _shards(specs: Sequence[TensorSpec], shard_bytes: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.num_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.num_bytes
    return shards


def _shard_names(count: int) -> list[str]:
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def _header(specs: Sequence[TensorSpec]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        end = offset + spec.num_bytes
        table[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def read_header(path: Path) -> dict[str, Any]:
    """The table of tensors of one file, without its metadata. Raises LoadError naming a damaged or truncated file."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < length <= min(size, _MAX_HEADER_BYTES):
                raise LoadError(f"{path} is not a safetensors file, or was cut off in its header")
            table: dict[str, Any] = json.loads(file.read(length))
    except (ValueError, OSError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    table.pop("__metadata__", None)
    expected = 8 + length + max((t["data_offsets"][1] for t in table.values()), default=0)
    if size != expected:
        raise LoadError(f"{path} is truncated or damaged: it has {size} bytes where its header says {expected}")
    return table
