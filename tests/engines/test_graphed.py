"""The captured step, uncaptured on a CPU: transformers' tokens, also from a used cache; and captures that fail."""

import contextlib
import time

import pytest
import torch
import transformers

from bitbench.engines.capture import capture
from bitbench.engines.graphed import GraphedEngine, GraphedModel
from bitbench.engines.static_step import StaticStepper
from bitbench.engines.transformers import TransformersModel
from bitbench.facts.errors import OutOfMemory, Unsupported
from bitbench.methods.registry import parse_method
from tests.engines.fake_cudnn import FakeCudnn
from tests.engines.tiny import VOCAB, checkpoint, in_float32, prompt_ids, write_tiny

# Prompt and output lengths in this order: the cache grows, then a shorter prompt and a longer one use it again.
LENGTHS = ((12, 20), (90, 20), (5, 30), (33, 60), (7, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def float32(folder):
    """Without rounding near-equal logits don't swap, so tokens are equal or something is wrong."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, use_cache=True, return_dict_in_generate=True, pad_token_id=0
    )
    return model


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_reused_cache_gives_transformers_tokens_after_shorter_and_longer_prompts(float32, batch_size):
    stepped, reference = GraphedModel(float32, None, "cpu"), TransformersModel(float32, None, "cpu")
    for prompt_len, output_len in LENGTHS:
        ids = prompt_ids(prompt_len, batch_size, seed=prompt_len)
        ticks: list[float] = []
        began = time.perf_counter()
        new = stepped.generate(ids, output_len, lambda: ticks.append(1))  # noqa: B023
        wall_s = time.perf_counter() - began
        assert new == reference.generate(ids, output_len, None)
        assert len(ticks) == 1
        gaps = stepped.step_times_s()
        assert len(gaps) == output_len - 1
        assert 0 <= sum(gaps) <= wall_s
    # 90 + 20 - 1 tokens are read at most: rounded up to 128.
    assert stepped.kv_cache_bytes() == batch_size * 128 * 2 * 2 * 2 * 16 * 4


def test_another_batch_size_makes_another_cache(float32):
    model = GraphedModel(float32, None, "cpu")
    one = [model.generate(prompt_ids(9, 1, seed), 12, None)[0] for seed in (1, 2)]
    both = model.generate([prompt_ids(9, 1, 1)[0], prompt_ids(9, 1, 2)[0]], 12, None)
    assert both == one


def test_warm_up_steps_leave_nothing_behind(float32):
    reference = TransformersModel(float32, None, "cpu").generate(prompt_ids(20), 10, None)
    stepper = StaticStepper(float32, 1, 64)
    stepper.start(torch.zeros(1, 2, dtype=torch.long))
    for _ in range(5):
        stepper.step()
    stepper.start(torch.tensor(prompt_ids(20)))
    for _ in range(9):
        stepper.step()
    assert stepper.output(20, 10) == reference


def test_the_cache_can_be_filled_to_the_last_place(float32):
    reference = TransformersModel(float32, None, "cpu").generate(prompt_ids(44), 21, None)
    model = GraphedModel(float32, None, "cpu")
    assert model.generate(prompt_ids(44), 21, None) == reference
    assert model.kv_cache_bytes() == 64 * 2 * 2 * 2 * 16 * 4


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("kind", "kv_heads"), [("Llama", 2), ("Llama", 4), ("Qwen2", 2), ("Qwen3", 1)])
@pytest.mark.parametrize("by_cudnn", [True, False])
def test_steps_have_the_tokens_and_logits_of_eager_transformers_grouped_or_not(
    tmp_path, kind, kv_heads, batch_size, by_cudnn, monkeypatch
):
    model = in_float32(write_tiny(tmp_path, kind, num_key_value_heads=kv_heads))
    reference, ids = TransformersModel(model, None, "cpu"), prompt_ids(20, batch_size)
    expected = reference.generate(ids, 12, None)
    logits_BSV = reference.batch_logits([[*prompt, *new] for prompt, new in zip(ids, expected, strict=True)])
    fake = FakeCudnn(can_use=by_cudnn).patch(monkeypatch)
    stepper = StaticStepper(model, batch_size, 64)
    stepper.start(torch.tensor(ids))
    for position in range(20, 31):
        stepper.step()
        torch.testing.assert_close(stepper.step_logits(), logits_BSV[:, position], rtol=1e-4, atol=1e-5)
    assert stepper.output(20, 12) == expected
    assert len(fake.by_cudnn) == (2 * 11 if by_cudnn and kv_heads < 4 else 0)


def test_by_cudnn_a_step_attends_over_the_cache_itself_with_its_mask(float32, monkeypatch):
    """The prompt is by transformers' own attention."""
    reference = TransformersModel(float32, None, "cpu").generate(prompt_ids(20, 3), 10, None)
    fake = FakeCudnn().patch(monkeypatch)
    stepper = StaticStepper(float32, 3, 64)
    stepper.start(torch.tensor(prompt_ids(20, 3)))
    assert [call["query"].shape[2] for call in fake.by_others] == [20, 20]
    assert not fake.by_cudnn
    for _ in range(9):
        stepper.step()
    assert stepper.output(20, 10) == reference
    assert len(fake.by_others) == 2
    for name in ("keys", "values"):
        tensors = [getattr(layer, name) for layer in stepper._cache.layers]
        found = [(call[name[:-1]].data_ptr(), call[name[:-1]].shape) for call in fake.by_cudnn]
        assert found == [(tensor.data_ptr(), tensor.shape) for tensor in tensors] * 9
    assert all(call["enable_gqa"] and call["query"].shape == (3, 4, 1, 16) for call in fake.by_cudnn)
    visible = torch.cat([call["attn_mask"] == 0 for call in fake.by_cudnn[::2]], dim=1)
    # The first step reads the token after the prompt's 20.
    assert torch.equal(visible[:, :, 0], (torch.arange(64) <= torch.arange(20, 29)[:, None]).expand(3, -1, -1))


@pytest.mark.parametrize("method", ["fp16", "bf16", "bnb-int8", "bnb-nf4"])
def test_methods_give_the_tokens_of_their_own_forward(folder, method):
    """As the session judges them: near-equal logits may swap, so tokens may differ from another engine's."""
    model = GraphedEngine().load(checkpoint(folder), parse_method(method), "cpu", False)
    for prompt_len in (40, 11):
        ids = prompt_ids(prompt_len, 3)
        for prompt, output in zip(ids, model.generate(ids, 20, None), strict=True):
            assert sum(gap <= 0.25 for gap in model.top_gaps([*prompt, *output], 20)) >= 19
            wrong = [(token + 1) % VOCAB for token in output]
            assert max(model.top_gaps([*prompt, *wrong], 20)) > 0.5


@pytest.mark.parametrize("window", [200, 40])
def test_a_window_that_covers_the_cache_is_no_hindrance_and_a_shorter_one_is_refused(tmp_path, window):
    mistral = in_float32(write_tiny(tmp_path / "m", "Mistral", sliding_window=window))
    model, ids = GraphedModel(mistral, None, "cpu"), prompt_ids(30)
    if window == 200:
        assert model.generate(ids, 20, None) == TransformersModel(mistral, None, "cpu").generate(ids, 20, None)
    else:
        with pytest.raises(Unsupported, match="StaticSlidingWindowLayer"):
            model.generate(ids, 20, None)


def test_a_cpu_is_refused_with_the_reason():
    answer = GraphedEngine().supports(parse_method("fp16"), "cpu")
    assert not answer.ok
    assert "needs a CUDA device" in answer.reason


class FakeCuda:
    """Just enough of torch.cuda to run `capture` without a GPU: what was called, and errors where a GPU raises them."""

    def __init__(self) -> None:
        self.mode: int | str = 0
        self.capturing = False
        self.calls: list[str] = []

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        self.capturing = True
        try:
            yield
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
        finally:
            self.capturing = False

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Stream:
            def wait_stream(self, _):
                pass

        class Graph:
            def replay(self):
                pass

        for name, value in {
            "current_stream": lambda _: Stream(),
            "Stream": lambda _: Stream(),
            "stream": lambda _: contextlib.nullcontext(),
            "synchronize": lambda _: self.calls.append("synchronize"),
            "set_stream": lambda _: self.calls.append("set_stream"),
            "CUDAGraph": Graph,
            "graph": self.graph,
            "get_sync_debug_mode": lambda: self.mode,
            "set_sync_debug_mode": lambda mode: setattr(self, "mode", mode),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


def test_a_step_is_warmed_up_checked_and_captured_once(monkeypatch):
    cuda = FakeCuda()
    cuda.patch(monkeypatch)
    seen: list[tuple] = []
    replay = capture(lambda: seen.append((cuda.mode, cuda.capturing)), "cuda:0")
    assert seen == [(0, False)] * 3 + [("error", False), (0, True)]
    assert callable(replay)


def test_a_step_that_waits_for_the_device_is_unsupported_and_the_reason_names_the_place(monkeypatch):
    cuda = FakeCuda()
    cuda.patch(monkeypatch)

    def step():
        if cuda.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(
        Unsupported, match=r"every decode step: it asks: tests/engines/test_graphed.py:\d+ `raise .* CUDA operation$"
    ):
        capture(step, "cuda:0", "it asks")
    assert cuda.mode == 0


def test_a_capture_that_fails_midway_names_the_first_error_and_restores_the_stream(monkeypatch):
    cuda = FakeCuda()
    cuda.patch(monkeypatch)

    def step():
        if cuda.capturing:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")

    with pytest.raises(Unsupported, match=r"not permitted when stream is capturing$"):
        capture(step, "cuda:0")
    assert cuda.calls[-2:] == ["set_stream", "synchronize"]


def test_memory_that_ends_while_capturing_is_out_of_memory(monkeypatch, float32):
    cuda = FakeCuda()
    cuda.patch(monkeypatch)

    def step(_):
        if cuda.capturing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(StaticStepper, "step", step)
    model = GraphedModel(float32, None, "cpu", captured=True)
    with pytest.raises(OutOfMemory, match="device memory"):
        model.generate(prompt_ids(5), 4, None)
