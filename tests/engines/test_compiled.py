"""transformers with torch.compile, on a CPU: right tokens, and one compilation for all lengths that fit."""

import shutil

import pytest

from bitbench.engines.compiled import CompiledEngine
from bitbench.facts.errors import Unsupported
from bitbench.methods.registry import parse_method
from tests.engines.tiny import checkpoint, prompt_ids, write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def test_tokens_are_the_models_own_and_other_lengths_compile_nothing_new(folder):
    model = CompiledEngine().load(checkpoint(folder), parse_method("bf16"), "cpu", False)
    for prompt_len, output_len in ((9, 20), (150, 30), (50, 10), (12, 1)):
        ids = prompt_ids(prompt_len)
        ticks: list[int] = []
        new = model.generate(ids, output_len, lambda: ticks.append(1))  # noqa: B023
        assert len(ticks) == len(new[0]) == output_len
        gaps = model.top_gaps([*ids[0], *new[0]], output_len)
        assert sum(gap <= 0.25 for gap in gaps) >= 0.95 * output_len
        assert model.num_compilations() == 1
    assert model.step_times_s() is None
    assert model.kv_cache_bytes() == 256 * model.kv_bytes_per_token()


@pytest.mark.parametrize("method", ["bnb-int8", "bnb-nf4"])
def test_what_transformers_would_silently_not_compile_is_unsupported(folder, method):
    with pytest.raises(Unsupported, match=r"does not compile bitsandbytes models: Bnb\dBit.*is_compileable is False"):
        CompiledEngine().load(checkpoint(folder), parse_method(method), "cpu", False)


def test_a_missing_compiler_is_one_clear_reason(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for device, names in (("cpu", "g++"), ("cuda:0", "gcc or clang")):
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.delenv("CC", raising=False)
        answer = CompiledEngine().supports(parse_method("fp16"), device)
        assert not answer.ok
        assert f"needs a compiler, and {names} is not here" in answer.reason
