import fcntl
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bitbench.results import store
from bitbench.results.record import SCHEMA_VERSION
from bitbench.results.store import StoreError
from tests.factories import ending, record
from tests.golden import DATA


def _child(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=DATA.parents[1],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = [record("fp16", [0.01, 0.02]), record("bnb-nf4", status="timeout", reason="silent"), ending()]
    for line in lines:
        store.append(path, line)
    loaded = store.read([path])
    assert [*loaded.records, *loaded.endings] == lines
    assert loaded.problems == ()


def test_a_broken_last_line_is_left_out_and_the_next_append_stands_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    store.append(path, record(process=0))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    loaded = store.read([path])
    assert len(loaded.records) == 1
    assert len(loaded.problems) == 1 and f"{path}:2" in loaded.problems[0] and "cut off" in loaded.problems[0]
    store.append(path, record(process=1))
    again = store.read([path])
    assert [r.process_index for r in again.records] == [0, 1]
    assert len(again.problems) == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{broken", "not JSON"),
        ('{"kind": "record"}', "no schema_version"),
        ("[1, 2]", "no schema_version"),
        (json.dumps({"kind": "record", "schema_version": SCHEMA_VERSION, "run_id": 3}), "not a record"),
    ],
)
def test_a_broken_line_in_the_middle_is_named_and_the_rest_kept(tmp_path: Path, bad: str, said: str) -> None:
    path = tmp_path / "r.jsonl"
    rows = [record(process=0).model_dump_json(), bad, "", record(process=1).model_dump_json()]
    path.write_text("\n".join(rows) + "\n")
    loaded = store.read([path])
    assert [r.process_index for r in loaded.records] == [0, 1]
    assert len(loaded.problems) == 1 and f"{path}:2" in loaded.problems[0] and said in loaded.problems[0]


def test_the_same_line_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    store.append(path, record())
    loaded = store.read([path, path])
    assert len(loaded.records) == 1
    assert "twice" in loaded.problems[0]


def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    document = {**json.loads(record().model_dump_json()), "schema_version": SCHEMA_VERSION + 1, "new_field": 1}
    path.write_text(json.dumps(document) + "\n")
    with pytest.raises(StoreError, match=rf"schema {SCHEMA_VERSION + 1}.*reads up to {SCHEMA_VERSION}.*upgrade"):
        store.read([path])


def test_an_older_schema_is_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema 0 never existed: a synthetic file without `weight_bits` proves the mechanism."""
    path = DATA / "records-v0.jsonl"
    with pytest.raises(StoreError, match="schema 0 is older"):
        store.read([path])
    monkeypatch.setitem(store.MIGRATIONS, 0, lambda old: {**old, "weight_bits": 16})
    loaded = store.read([path])
    assert loaded.problems == ()
    assert [(r.weight_bits, r.schema_version) for r in loaded.records] == [(16, SCHEMA_VERSION)]


@pytest.mark.parametrize("write", [lambda p: store.append(p, record()), store.check_writable])
class TestUnwritable:
    def test_missing_folder(self, tmp_path: Path, write) -> None:
        with pytest.raises(StoreError, match=f"no folder {tmp_path / 'no'}"):
            write(tmp_path / "no" / "r.jsonl")

    def test_a_folder_in_its_place(self, tmp_path: Path, write) -> None:
        with pytest.raises(StoreError, match="cannot write records to"):
            write(tmp_path)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    def test_full_disk(self, write) -> None:
        with pytest.raises(StoreError, match="No space left"):
            write(Path("/dev/full"))


def test_missing_file_and_folder_as_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no record file .*absent\.jsonl"):
        store.read([tmp_path / "absent.jsonl"])
    with pytest.raises(StoreError, match="cannot read"):
        store.read([tmp_path])


@pytest.mark.parametrize("before", [None, b"", b'{"old": 1}\n', b"unfinished"])
def test_checking_leaves_no_trace(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "r.jsonl"
    if before is not None:
        path.write_bytes(before)
    store.check_writable(path)
    assert (path.read_bytes() if path.exists() else None) == before


_SHORT_WRITE = """
import resource, signal, sys
from bitbench.results import store
from tests.factories import record
path = sys.argv[1]
store.append(path, record(process=0))
size = len(open(path, "rb").read())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
for attempt in (lambda: store.append(path, record(process=1)), lambda: store.check_writable(path)):
    try:
        attempt()
    except store.StoreError as error:
        print(error)
    assert len(open(path, "rb").read()) == size
"""


def test_a_disk_that_fills_up_midway_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert _child(_SHORT_WRITE, str(path)).count("only 100 of") == 2
    loaded = store.read([path])
    assert len(loaded.records) == 1 and loaded.problems == ()


_READ_ONLY = """
import os, sys
from bitbench.results import store
from tests.factories import record
if os.geteuid() == 0:
    os.setuid(65534)
try:
    store.check_writable(sys.argv[1])
except store.StoreError as error:
    print(error)
"""


def test_read_only_file_for_an_ordinary_user() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "r.jsonl"
        store.append(path, record())
        path.chmod(0o444)
        before = path.read_bytes()
        assert "Permission denied" in _child(_READ_ONLY, str(path))
        assert path.read_bytes() == before


def test_an_append_waits_for_another_runs_append(tmp_path: Path) -> None:
    """Else taking back a failed write could cut off the other's line."""
    path = tmp_path / "r.jsonl"
    store.append(path, record(process=0))
    with path.open("rb") as other, ThreadPoolExecutor(1) as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = pool.submit(store.append, path, record(process=1))
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        assert len(store.read([path]).records) == 1
        fcntl.flock(other, fcntl.LOCK_UN)
        waiting.result(timeout=30)
    assert len(store.read([path]).records) == 2
