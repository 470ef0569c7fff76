"""The captured step on a real GPU; skipped without one."""

import time

import pytest
import torch
import transformers

from bitbench.engines.capture import capture
from bitbench.engines.graphed import GraphedEngine, GraphedModel
from bitbench.engines.static_step import StaticStepper
from bitbench.engines.transformers import TransformersEngine, TransformersModel
from bitbench.facts.errors import Unsupported
from bitbench.methods.registry import parse_method
from tests.engines.tiny import checkpoint, prompt_ids, write_tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = "cuda:0"
LENGTHS = ((12, 20), (90, 20), (5, 30), (33, 60), (7, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Heads of 64, as in real models: attention kernels for GPUs want more than the tiny model's 16.
    return write_tiny(tmp_path_factory.mktemp("tiny"), hidden_size=256, intermediate_size=512)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_captured_tokens_are_transformers_tokens_in_float32(folder, batch_size):
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map={"": DEVICE})
    loaded.generation_config = transformers.GenerationConfig(
        do_sample=False, use_cache=True, return_dict_in_generate=True, pad_token_id=0
    )
    captured, reference = GraphedModel(loaded.eval(), None, DEVICE), TransformersModel(loaded, None, DEVICE)
    for prompt_len, output_len in LENGTHS:
        ids = prompt_ids(prompt_len, batch_size, seed=prompt_len)
        assert captured.generate(ids, output_len, None) == reference.generate(ids, output_len, None)


@pytest.mark.parametrize("method", ["fp16", "bf16", "bnb-int8-t0", "bnb-nf4"])
def test_a_replayed_step_gives_the_tokens_of_the_same_step_uncaptured(folder, method):
    captured = GraphedEngine().load(checkpoint(folder), parse_method(method), DEVICE, False)
    stepped = GraphedModel(captured._model, None, DEVICE, captured=False)
    for prompt_len, output_len in LENGTHS:
        ids = prompt_ids(prompt_len, seed=prompt_len)
        assert captured.generate(ids, output_len, None) == stepped.generate(ids, output_len, None)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("method", ["fp16", "bf16"])
def test_steps_in_16_bits_have_the_logits_of_one_forward_over_all(folder, method, batch_size):
    """By cuDNN from the cache itself on a Hopper, elsewhere by transformers' own attention."""
    model = TransformersEngine().load(checkpoint(folder), parse_method(method), DEVICE, False)
    stepper, ids = StaticStepper(model._model, batch_size, 64), prompt_ids(20, batch_size)
    stepper.start(torch.tensor(ids, device=DEVICE))
    steps = []
    for _ in range(30):
        stepper.step()
        steps.append(stepper.step_logits().float())
    read = [[*prompt, *new] for prompt, new in zip(ids, stepper.output(20, 31), strict=True)]
    expected = model.batch_logits(read)[:, 20:50].float()
    found = torch.stack(steps, dim=1)
    assert float((found - expected).norm() / expected.norm()) < 0.02


def test_the_gaps_are_within_the_time_that_passed_and_explain_most_of_it(folder):
    model = GraphedEngine().load(checkpoint(folder), parse_method("fp16"), DEVICE, False)
    ids = prompt_ids(20)
    model.generate(ids, 200, None)
    ticks: list[float] = []
    model.generate(ids, 200, lambda: ticks.append(time.monotonic()))
    model.synchronize()
    wall_s = time.monotonic() - ticks[0]
    gaps = model.step_times_s()
    assert len(gaps) == 199
    assert 0.5 * wall_s < sum(gaps) < 1.01 * wall_s


def test_outliers_asked_of_the_host_are_unsupported_and_the_process_stays_healthy(folder):
    model = GraphedEngine().load(checkpoint(folder), parse_method("bnb-int8"), DEVICE, False)
    with pytest.raises(Unsupported, match=r"outliers in every layer .*bitsandbytes/"):
        model.generate(prompt_ids(20), 10, None)
    assert torch.randn(4, device=DEVICE).add_(1).shape == (4,)
    assert torch.cuda.get_sync_debug_mode() == 0
    eager = TransformersEngine().load(checkpoint(folder), parse_method("fp16"), DEVICE, False)
    captured = GraphedModel(eager._model, None, DEVICE)
    assert len(captured.generate(prompt_ids(20), 10, None)[0]) == 10


def test_a_wait_that_only_capturing_finds_is_unsupported_and_small_work_goes_on():
    """Last in this file: a capture that broke leaves torch's allocator in doubt about later captures."""

    def step():
        if torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()

    before = torch.cuda.current_stream()
    with pytest.raises(Unsupported, match="cannot be captured"):
        capture(step, DEVICE)
    assert torch.cuda.current_stream() == before
    assert float(torch.zeros(4, device=DEVICE).add_(1).sum()) == 4.0


@pytest.mark.parametrize("method", ["fp16", "bf16", "bnb-int8-t0", "bnb-nf4"])
def test_a_replayed_step_has_the_logits_of_the_same_step_uncaptured(folder, method):
    captured = GraphedEngine().load(checkpoint(folder), parse_method(method), DEVICE, False)
    stepped = GraphedModel(captured._model, None, DEVICE, captured=False)
    for prompt_len, output_len in ((12, 20), (5, 30)):
        prompt, forced = prompt_ids(prompt_len)[0], prompt_ids(output_len, seed=2)[0]
        before = captured.generate([prompt], 10, None)
        found = captured.forced_logits(prompt, forced)
        assert torch.equal(found, stepped.forced_logits(prompt, forced))
        assert len({tuple(row) for row in found.tolist()}) == output_len, "each step's own"
        assert captured.generate([prompt], 10, None) == before
