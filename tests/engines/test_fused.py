"""The engine around our decoder, with plain steps in place of the kernel: tokens, checks, sizes and refusals."""

from types import SimpleNamespace

import pytest
import torch

import bitbench.decode.decoder as decoders
from bitbench.decode import paths
from bitbench.engines.fused import FusedEngine, FusedModel
from bitbench.engines.transformers import TransformersEngine
from bitbench.facts.errors import Unsupported
from bitbench.facts.workloads import parse_workload
from bitbench.measure.memory import meter
from bitbench.measure.profile import take
from bitbench.measure.session import Session
from bitbench.methods.registry import parse_method
from tests.engines.tiny import checkpoint, prompt_ids, write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"), "Qwen2", tie_word_embeddings=True)


@pytest.fixture
def model(folder):
    return FusedModel(decoders.load(folder), None)


def test_a_session_measures_it_and_its_tokens_pass_the_check(model):
    reported = []
    session = Session(model, parse_workload("p12-n20"), [0, 1], meter("cpu"), reported.append, None, 4, 0.0)
    check = session.run()
    assert check.num_agreeing == check.num_positions == 40
    samples = [event for event in reported if hasattr(event, "warmup") and not event.warmup]
    assert [len(sample.itl_s) for sample in samples] == [19, 19]


def test_its_sizes_are_transformers_own(folder, model):
    theirs = TransformersEngine().load(checkpoint(folder), parse_method("fp16"), "cpu", False)
    for name in ("weights_bytes", "unread_embedding_bytes", "kv_bytes_per_token", "vocab_size", "context_len"):
        assert getattr(model, name)() == getattr(theirs, name)(), name
    assert model.matrices() == theirs.matrices()
    assert model.dtype() == theirs.dtype() == "float16"


def test_a_longer_prompt_after_a_shorter_one_gets_a_longer_cache(model):
    first = model.generate(prompt_ids(10), 5, None)
    before = model.kv_cache_bytes()
    assert model.generate(prompt_ids(10), 5, None) == first
    assert model.kv_cache_bytes() == before > 0
    assert len(model.generate(prompt_ids(200), 56, None)[0]) == 56


def test_a_batch_has_the_tokens_of_each_sequence_alone(model):
    prompts = prompt_ids(30, 3)
    together = model.generate(prompts, 8, None)
    assert len(model.step_times_s()) == 7
    assert together == [model.generate([prompt], 8, None)[0] for prompt in prompts]


def test_forced_tokens_have_the_logits_of_the_whole_text(model):
    ids = prompt_ids(30)[0]
    stepped, whole = model.forced_logits(ids[:10], ids[10:]), model.logits(ids, 20)
    assert stepped.shape == whole.shape
    assert torch.allclose(stepped, whole, atol=2e-3)
    both = model.batch_logits([ids, [*ids[:15], *ids[:15]]])
    assert torch.allclose(both[0, 9:29], whole, atol=2e-3)
    assert torch.allclose(both[1, :15], both[0, :15], atol=2e-3)
    model.generate([ids[:10]] * 3, 2, None)  # the gate checks the steps that are timed: a batch's
    of_three = model.forced_logits(ids[:10], ids[10:])
    assert of_three.shape == whole.shape
    assert torch.allclose(of_three, whole, atol=2e-3)


def test_what_it_does_not_run_has_a_reason(model):
    with pytest.raises(Unsupported, match="up to 16 sequences at once, not 17"):
        model.generate(prompt_ids(4, 17), 2, None)
    engine = FusedEngine()
    assert "needs a CUDA device" in engine.supports(parse_method("fp16"), "cpu").reason
    assert "kernels of its own: ask for awq-int4" in engine.supports(parse_method("awq-int4:marlin"), "cuda:0").reason
    assert (
        "fp16, int8-wo, fp8-wo, awq-int4, awq-int4-head8, rtn-int4 and not bnb-int8"
        in engine.supports(parse_method("bnb-int8"), "cuda:0").reason
    )
    assert engine.supports(parse_method("fp16"), "cuda:0").ok


def test_a_profile_says_what_prompt_and_steps_are_for(model):
    decode, prefill = take(model, "cpu", prompt_ids(8))
    assert {role.role for role in decode.roles} == {"whole_step"}
    assert {"projections", "attention"} <= {role.role for role in prefill.roles}
    assert not decode.unattributed and not prefill.unattributed
    assert decode.roles[0].bytes_read == decode.bytes_read


def test_triton_is_tuned_where_all_products_of_a_step_were_measured(folder, own_cache, monkeypatch):
    monkeypatch.setattr(paths, "choose_on", lambda *_: "Triton")
    gpu = SimpleNamespace(name="NVIDIA H100 80GB HBM3", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    fp16, int8 = (FusedModel(decoders.load(folder, method), None) for method in ("fp16", "int8-wo"))
    assert fp16.kernels(8).name == "Triton, tuned"
    assert int8.kernels(8).name == "Triton, untuned"
    gpu.name = "NVIDIA A100-SXM4-80GB"
    assert fp16.kernels(8).name == "Triton, untuned"


@pytest.mark.parametrize("one_launch", [True, False])
def test_a_single_launch_is_queued_behind_the_prompt_and_the_first_token_heard_of_when_that_is_read(
    monkeypatch, one_launch
):
    done = []
    steps = SimpleNamespace(
        one_launch=one_launch,
        start_all=lambda ids: done.append("read"),
        advance=lambda num_steps: done.append(f"{num_steps} steps"),
        all_tokens=lambda first, count: done.append("fetched") or [[0] * count],
    )
    model = FusedModel(SimpleNamespace(device="cuda:0", prepared=lambda batch, room: steps), None)
    event = SimpleNamespace(synchronize=lambda: done.append("waited"))
    monkeypatch.setattr(FusedModel, "_now", lambda self: done.append("marked") or event)
    monkeypatch.setattr(FusedModel, "synchronize", lambda self: done.append("waited for all"))
    model.generate([[1, 2, 3]], 5, lambda: done.append("told"))
    if one_launch:
        assert done == ["read", "marked", "4 steps", "waited", "told", "fetched"]
    else:
        assert done == ["read", "waited for all", "told", "4 steps", "fetched"]
