"""Whole steps by Triton kernels against the plain decoder; on a GPU replayed from a CUDA graph."""

from dataclasses import replace

import pytest
import torch

from bitbench.decode import load
from bitbench.decode.triton_steps import TritonSteps, check, check_tools, on_cuda
from bitbench.decode.tuning import Blocks, Tuning, defaults
from bitbench.facts.errors import Unsupported
from tests.decode.on_triton import DEVICE, needs_triton
from tests.decode.test_decoder import write_awq
from tests.engines.tiny import prompt_ids, write_tiny

SMALL = {"hidden_size": 192, "intermediate_size": 320, "num_attention_heads": 6}
MODELS = {
    "qwen2": ("Qwen2", SMALL | {"tie_word_embeddings": True}),
    "llama": ("Llama", SMALL | {"num_key_value_heads": 6, "num_hidden_layers": 1}),
    "qwen3": ("Qwen3", SMALL | {"head_dim": 64, "tie_word_embeddings": True, "num_hidden_layers": 1}),
}


def model(tmp_path, name, method):
    kind, config = MODELS[name]
    folder = write_tiny(tmp_path / "m", kind, **config)
    if method.startswith("awq"):
        source_folder, folder = folder, tmp_path / "awq"
        write_awq(folder, source_folder, group_size=64)
    return load(folder, method, DEVICE)


def triton_steps(decoder, room, batch_size=1):
    if DEVICE == "cpu":
        # The interpreter takes its time for each program: few of them, with much to do.
        tuning = Tuning({key: Blocks(64, 32 if "int4" in key else 128, 4, 2) for key in defaults((8, 0)).products})
        return TritonSteps(decoder.forward, "cpu", room, batch_size, tuning=tuning, multiprocessors=4)
    return on_cuda(decoder.forward, DEVICE, room, batch_size)


CASES = [
    ("qwen2", "fp16", 1), ("qwen2", "int8-wo", 3), ("qwen2", "fp8-wo", 1), ("qwen2", "awq-int4-head8", 2),
    ("llama", "fp16", 4), ("llama", "int8-wo", 1), ("qwen3", "awq-int4", 1),
]  # fmt: skip


@needs_triton
@torch.inference_mode()
@pytest.mark.parametrize(("name", "method", "batch"), CASES)
def test_logits_and_tokens_are_the_plain_decoders(tmp_path, name, method, batch):
    """Errors against float32 arithmetic on the same stored numbers are at most those of the plain 16-bit decoder."""
    decoder = model(tmp_path, name, method)
    exact, steps = decoder.in_float32(), triton_steps(decoder, 128, batch)
    errors, allowed = [], []
    for prompt_len, num_steps in ((70, 2), (7, 1)):  # a shorter one after a longer one
        sequences = prompt_ids(prompt_len, batch, seed=prompt_len)
        steps.start_all(sequences)
        for number in range(num_steps):
            for sequence, (token,) in zip(sequences, steps.all_tokens(prompt_len + number, 1), strict=True):
                sequence.append(token)
            steps.all_logits().fill_(float("nan"))  # poisoned: what is not written is seen
            steps.advance(1, keep_logits=True)
            assert len(steps.step_times_s()) == 1
            for row, sequence in enumerate(sequences):
                expected, plain = (d.logits(sequence, 1)[0] for d in (exact, decoder))
                errors.append(float((steps.all_logits()[row] - expected).square().mean()))
                allowed.append(float((plain - expected).square().mean()))
            chosen = steps.all_tokens(prompt_len + number + 1, 1)
            assert chosen == steps.all_logits().argmax(dim=-1, keepdim=True).tolist()
    assert sum(errors) <= 1.1**2 * sum(allowed)


@needs_triton
@torch.inference_mode()
def test_the_same_steps_are_bit_identical_and_a_forced_token_is_read(tmp_path):
    decoder = model(tmp_path, "qwen2", "fp16")
    steps, ids, found = triton_steps(decoder, 64), prompt_ids(20)[0], []
    for _ in range(2):
        steps.start(ids)
        steps.advance(2)
        found.append((steps.tokens(20, 3), steps.logits().clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    steps.start(ids)
    steps.force(17)
    steps.advance(1)
    assert torch.allclose(steps.logits(), decoder.logits([*ids, 17], 1)[0], atol=2e-3)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 3])
def test_a_gpus_own_path_generates_likely_tokens(tmp_path, batch):
    decoder, ids = model(tmp_path, "qwen2", "int8-wo"), prompt_ids(40, batch)
    for prompt, tokens in zip(ids, decoder.generate(ids, 40, eos_ids=[]), strict=True):
        logits = decoder.logits([*prompt, *tokens[:-1]], 40)
        behind = logits.max(dim=1).values - logits[torch.arange(40), tokens]
        assert (behind <= 0.05 * logits.std(dim=1)).all()


def test_what_the_kernels_cannot_do_has_a_reason(tmp_path, monkeypatch):
    kind, settings = MODELS["qwen2"]
    config = load(write_tiny(tmp_path / "m", kind, **settings)).config
    half, wide = torch.float16, torch.bfloat16
    check(config, half, (7, 5), 16)
    check(config, wide, (8, 0))
    for change, dtype, capability, batch, told in (
        ({}, half, (7, 0), 1, "need compute capability 7.5 and this GPU has 7.0"),
        ({}, wide, (7, 5), 1, "bfloat16 needs compute capability 8.0 and this GPU has 7.5: float16 runs here"),
        ({}, half, (8, 0), 17, "up to 16 sequences at once, not 17"),
        ({"num_heads": 7}, half, (8, 0), 1, "equally many query heads for each key head, not 7 for 2"),
    ):
        with pytest.raises(Unsupported, match=told):
            check(replace(config, **change), dtype, capability, batch)
    monkeypatch.setattr("bitbench.decode.triton_steps.find_spec", lambda _: None)
    with pytest.raises(Unsupported, match="pip install triton"):
        check_tools()
    monkeypatch.setattr("bitbench.decode.triton_steps.find_spec", lambda _: True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("bitbench.decode.triton_steps.shutil.which", lambda _: None)
    with pytest.raises(Unsupported, match="needs a C compiler: install gcc"):
        check_tools()
