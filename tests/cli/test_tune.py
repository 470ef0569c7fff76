"""What `bitbench tune` found is kept after each search, so that an interruption loses only the search it comes to."""

from types import SimpleNamespace

import pytest

import bitbench.cli.tune as command
from bitbench.decode import tuning
from bitbench.decode.tuning import Tuning


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Batch sizes in the order of their searches; one of 8 is interrupted."""
    pytest.importorskip("triton")
    monkeypatch.setenv("BITBENCH_CACHE", str(tmp_path))
    found = []

    def search(steps, context, start, told):
        if steps.batch_size == 8:
            raise KeyboardInterrupt
        found.append(steps.batch_size)
        before = start or tuning.defaults((9, 0))
        return Tuning(before.products, norm_warps=len(found), measured=frozenset(["16bit one short"]))

    monkeypatch.setattr("bitbench.decode.search.search", search)
    monkeypatch.setattr(
        "bitbench.decode.triton_steps.on_cuda",
        lambda forward, device, room, batch_size: SimpleNamespace(batch_size=batch_size),
    )
    monkeypatch.setattr("bitbench.decode.load", lambda path, stored, device: SimpleNamespace(forward=None))
    monkeypatch.setattr(command, "prepare", lambda task, told: SimpleNamespace(path="nowhere"))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(name="some GPU"))
    monkeypatch.setattr(command, "parse_device", lambda text: text)
    monkeypatch.setattr(command, "_check", lambda methods, device: None)
    monkeypatch.setattr(command, "ask", lambda *_: None)
    monkeypatch.setattr(command, "plan", lambda *_: SimpleNamespace(download_bytes=0))
    return found


def options(batch_sizes, dry_run=False):
    return command.Options(
        model="shape:qwen2.5-0.5b", methods=("fp16",), batch_sizes=batch_sizes, device="cuda:0", context=256, yes=True,
        dry_run=dry_run,
    )  # fmt: skip


def test_an_interruption_leaves_what_was_found_before(searched):
    with pytest.raises(KeyboardInterrupt):
        command.tune(options((1, 4, 8, 16)))
    assert searched == [1, 4]
    assert tuning.read(tuning.file())["some GPU"].norm_warps == 2


def test_a_dry_run_keeps_nothing(searched):
    command.tune(options((1, 4), dry_run=True))
    assert searched == [1, 4]
    assert not tuning.file().exists()
