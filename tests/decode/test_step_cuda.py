"""The step kernel against the plain decoder, on a GPU that has it."""

import json
import shutil

import pytest
import torch

from bitbench.decode import load
from bitbench.decode.paths import choose_on
from bitbench.decode.step_kernel import on_cuda
from tests.decode.gpus import A100, RTX_3090, RTX_4090
from tests.decode.stepped import stepped
from tests.decode.test_decoder import write_awq
from tests.engines.tiny import prompt_ids, write_tiny

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="needs compute capability 8.0"
)
MODELS = {
    "qwen2": ("Qwen2", {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "vocab_size": 5000}),
    "qwen3": ("Qwen3", {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "head_dim": 128}),
    "narrow": ("Llama", {"hidden_size": 192, "intermediate_size": 384, "num_attention_heads": 3, "vocab_size": 1000,
                         "num_key_value_heads": 3, "tie_word_embeddings": True}),
    "wide": ("Llama", {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
                       "tie_word_embeddings": True, "num_key_value_heads": 8}),
    # With 8 bits a block's tiles of q, k and v, three on 132 multiprocessors, are summed one after another.
    "rounds": ("Qwen2", {"hidden_size": 3584, "intermediate_size": 4096, "num_attention_heads": 28, "vocab_size": 1000,
                         "num_key_value_heads": 4}),
}  # fmt: skip
METHODS = ["fp16", "bf16", "int8-wo", "awq-int4", "awq-int4-head8"]
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")


@pytest.fixture(scope="module", params=list(MODELS))
def source(request, tmp_path_factory):
    kind, config = MODELS[request.param]
    return write_tiny(tmp_path_factory.mktemp(request.param) / "m", kind, max_position_embeddings=8192, **config)


@pytest.fixture(scope="module", params=["qwen2", "narrow"])
def small_source(request, tmp_path_factory):
    """Of models whose vectors fit eight times."""
    kind, config = MODELS[request.param]
    return write_tiny(tmp_path_factory.mktemp(request.param) / "m", kind, max_position_embeddings=8192, **config)


def stored(source, method, folder):
    """The checkpoint as a method needs it."""
    if not method.startswith("awq"):
        return source
    # Of one sequence's vector, units of 128 are in planes; of 64 only as many as there are warps.
    sizes = json.loads((source / "config.json").read_text())
    write_awq(folder / "awq", source, group_size=128 if sizes["hidden_size"] in (896, 4096) else 64)
    return folder / "awq"


def assert_errors_allowed(steps, prompt_len):
    """Together at most 1.1 times plain 16-bit arithmetic's error; a single step's differs by a tenth by chance."""
    numbers, errors, allowed = zip(*steps, strict=True)
    assert sum(errors) <= 1.1**2 * sum(allowed), prompt_len
    for number, error, plain in zip(numbers, errors, allowed, strict=True):
        assert error <= 1.3**2 * plain, (prompt_len, number)


@torch.inference_mode()
@pytest.mark.parametrize("method", METHODS)
def test_logits_and_tokens_are_the_plain_decoders(source, tmp_path, method):
    rounded = load(stored(source, method, tmp_path), method, "cuda:0")
    exact = rounded.in_float32()
    kernel = on_cuda(rounded.forward, "cuda:0", 4096)
    for prompt_len in (40, 7, 250, 700, 4000):
        ids = prompt_ids(prompt_len, seed=prompt_len)
        steps = list(stepped(kernel, exact, rounded, ids, 5))
        assert_errors_allowed(steps, prompt_len)


@torch.inference_mode()
@pytest.mark.parametrize("method", METHODS)
def test_the_gather_kernel_makes_the_plain_matrices(source, tmp_path, method):
    decoder = load(stored(source, method, tmp_path), method, "cuda:0")
    on_cuda(decoder.forward, "cuda:0", 64)
    weights = decoder.forward.weights  # in streams now
    for matrix in (weights.head, *(m for layer in weights.layers for m in layer.matrices)):
        found = torch.cat(list(matrix.in_pieces(decoder.dtype)))
        assert torch.equal(found, matrix.plain().in_type(decoder.dtype))


@torch.inference_mode()
@pytest.mark.parametrize("batch_size", [2, 5, 8])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_decoded_as_each_of_its_sequences(small_source, tmp_path, method, batch_size):
    rounded = load(stored(small_source, method, tmp_path), method, "cuda:0")
    exact = rounded.in_float32()
    kernel = on_cuda(rounded.forward, "cuda:0", 4096, batch_size=batch_size)
    for prompt_len in (40, 250, 3000):
        ids = prompt_ids(prompt_len, batch_size, seed=prompt_len)
        for number, error, allowed in stepped(kernel, exact, rounded, ids, 3):
            assert error <= 1.1**2 * allowed, (prompt_len, number)


@pytest.mark.parametrize("batch_size", [1, 6])
def test_the_same_steps_are_bit_identical_however_they_are_launched(small_source, batch_size):
    decoder = load(small_source, "fp16", "cuda:0")
    kernel = on_cuda(decoder.forward, "cuda:0", 512, batch_size=batch_size)
    found = []
    for chunk in (1, 3, 100, 100, 7):
        kernel.start_all(prompt_ids(40, batch_size))
        done = 0
        while done < 100:
            kernel.advance(min(chunk, 100 - done), keep_logits=True)
            done += min(chunk, 100 - done)
        found.append((kernel.all_tokens(40, 101), kernel.all_logits().clone()))
    for tokens, logits in found[1:]:
        assert tokens == found[0][0]
        assert torch.equal(logits, found[0][1])


def poison(kernel):
    """Fill what blocks exchange with NaNs that count as sent before: what is read too early is seen."""
    b, layers = kernel._buffers, kernel.forward.config.num_layers
    done = int(b["steps_done"][0])
    for name in ("qkv", "parts"):
        b[name].fill_(-1)  # a tag that never comes
    for name, sent in [("best", done)] + [(n, done * layers) for n in ("attended", "from_o", "inner", "from_down")]:
        b[name].fill_(-2 + sent % 2)


@pytest.mark.parametrize(("method", "batch_size"), [("fp16", 1), ("fp16", 4), ("int8-wo", 1)])
def test_blocks_that_come_late_change_nothing(source, method, batch_size):
    """10,000 steps with every warp sleeping at random, what is sent between blocks poisoned before."""
    decoder = load(source, method, "cuda:0")
    if batch_size > 1 and choose_on(decoder.forward, "cuda:0", batch_size) != "step kernel":
        pytest.skip("so many vectors do not fit")
    assert_late_blocks_change_nothing(decoder, batch_size)


def assert_late_blocks_change_nothing(decoder, batch_size=1, gpu=None):
    found = []
    for delay in ("0", "3000"):
        kernel = on_cuda(decoder.forward, "cuda:0", 2560, extra={"DELAY": delay}, batch_size=batch_size, gpu=gpu)
        sequences = []
        for turn in range(4):
            poison(kernel)
            kernel.start_all(prompt_ids(40 + turn, batch_size))
            kernel.advance(2500, keep_logits=True)
            sequences.append((kernel.all_tokens(40 + turn, 2501), kernel.all_logits().clone()))
        found.append(sequences)
    for (tokens, logits), (late_tokens, late_logits) in zip(*found, strict=True):
        assert tokens == late_tokens
        assert torch.equal(logits, late_logits)


def earlier(gpu):
    """Its code runs here, with as many blocks and as much shared memory as it has."""
    if torch.cuda.get_device_capability() <= gpu.capability:
        pytest.skip("this GPU is no later one")
    return gpu


@needs_nvcc
@torch.inference_mode()
@pytest.mark.parametrize(("gpu", "batch_size"), [(A100, 1), (A100, 4), (RTX_3090, 1), (RTX_4090, 1), (RTX_4090, 2)])
@pytest.mark.parametrize("method", ["fp16", "int8-wo", "awq-int4-head8"])
def test_made_for_earlier_gpus_it_does_the_same(tmp_path, method, gpu, batch_size):
    kind, config = MODELS["qwen2"]
    folder = write_tiny(tmp_path / "m", kind, max_position_embeddings=8192, **config)
    rounded = load(stored(folder, method, tmp_path), method, "cuda:0")
    kernel = on_cuda(rounded.forward, "cuda:0", 4096, batch_size=batch_size, gpu=earlier(gpu))
    exact, steps = rounded.in_float32(), []
    for prompt_len in (40, 250, 3000):
        ids = prompt_ids(prompt_len, batch_size, seed=prompt_len)
        steps += stepped(kernel, exact, rounded, ids, 4)
    assert_errors_allowed(steps, "all")


@needs_nvcc
@pytest.mark.parametrize(("method", "gpu"), [("fp16", A100), ("int8-wo", RTX_4090)])
def test_made_for_earlier_gpus_late_blocks_change_nothing(tmp_path, method, gpu):
    kind, config = MODELS["qwen2"]
    folder = write_tiny(tmp_path / "m", kind, max_position_embeddings=8192, **config)
    assert_late_blocks_change_nothing(load(folder, method, "cuda:0"), gpu=earlier(gpu))
