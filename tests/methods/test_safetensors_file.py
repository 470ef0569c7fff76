"""What the writer writes, safetensors reads; what is damaged is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from bitbench.facts.errors import LoadError
from bitbench.methods import safetensors_file
from bitbench.methods.content_hash import content_hash
from bitbench.methods.safetensors_file import TensorSpec

SPECS = (TensorSpec("b", "F16", (3, 5)), TensorSpec("a", "I32", (2, 2)), TensorSpec("c", "F16", (7,)))
ARRAYS = (
    np.arange(15, dtype=np.float16).reshape(3, 5),
    np.arange(4, dtype=np.int32).reshape(2, 2),
    np.ones(7, np.float16),
)


def write(folder: Path, shard_bytes: int = 10**9) -> Path:
    folder.mkdir(exist_ok=True)
    safetensors_file.write(folder, SPECS, ARRAYS, lambda name: None, shard_bytes)
    return folder / "model.safetensors"


def test_one_file_is_read_back(tmp_path: Path) -> None:
    loaded = load_file(write(tmp_path))
    assert set(loaded) == {"a", "b", "c"}
    for spec, array in zip(SPECS, ARRAYS, strict=True):
        np.testing.assert_array_equal(loaded[spec.name], array)


def test_shards_are_read_back_through_their_index(tmp_path: Path) -> None:
    write(tmp_path, shard_bytes=40)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in ARRAYS)
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / file)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(min_value=1, max_value=300))
def test_every_truncation_is_found(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    file = write(tmp_path_factory.mktemp("cut"))
    content = file.read_bytes()
    file.write_bytes(content[:-cut])
    with pytest.raises(LoadError, match=r"model\.safetensors"):
        safetensors_file.read_header(file)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0not json"])
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(LoadError, match=r"model\.safetensors"):
        safetensors_file.read_header(tmp_path / "model.safetensors")


def test_the_hash_changes_with_the_numbers_and_only_with_them(tmp_path: Path, own_cache: Path) -> None:
    first, second = write(tmp_path / "x"), write(tmp_path / "y")
    assert content_hash([first]) == content_hash([second])
    changed = bytearray(second.read_bytes())
    changed[-1] ^= 1
    second.write_bytes(changed)
    assert content_hash([first]) != content_hash([second])


def test_a_remembered_digest_is_dropped_when_the_file_changes(tmp_path: Path, own_cache: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(b"a" * 2_000_000)
    before = content_hash([file])
    assert (own_cache / ".hashes.json").is_file()
    assert content_hash([file]) == before
    file.write_bytes(b"b" * 2_000_000)
    assert content_hash([file]) != before
