"""The step kernel against the plain decoder, on a GPU that has it."""

import pytest
import torch

from bitbench.decode import load
from bitbench.decode.step_kernel import StepKernel
from tests.decode.test_decoder import write_awq
from tests.engines.tiny import prompt_ids, write_tiny

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0), reason="needs compute capability 9.0"
)
MODELS = {
    "llama": ("Llama", {"hidden_size": 256, "intermediate_size": 512}),
    "qwen2": ("Qwen2", {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "vocab_size": 5000}),
    "wide": ("Llama", {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}),
}


@pytest.fixture(scope="module", params=list(MODELS))
def source(request, tmp_path_factory):
    kind, config = MODELS[request.param]
    return write_tiny(tmp_path_factory.mktemp(request.param) / "m", kind, **config)


@torch.inference_mode()
@pytest.mark.parametrize("method", ["fp16", "int8-wo", "awq-int4", "awq-int4-head8"])
@pytest.mark.parametrize("num_warps", [8, 16])
def test_logits_and_tokens_are_the_plain_decoders(source, tmp_path, method, num_warps):
    folder = source
    if method.startswith("awq"):
        folder = tmp_path / "awq"
        write_awq(folder, source, group_size=128)
    exact = load(folder, method, "cuda:0", dtype=torch.float32)
    rounded = load(folder, method, "cuda:0")
    kernel = StepKernel(rounded.config, rounded.forward, "cuda:0", 256, num_warps)
    for prompt_len in (40, 7, 150):
        ids = prompt_ids(prompt_len, seed=prompt_len)[0]
        kernel.start(ids)
        sequence = [*ids, *kernel.tokens(prompt_len, 1)]
        for number in range(20):
            kernel.logits().fill_(float("nan"))  # poisoned: what is not written is seen
            kernel.step()
            expected = exact.logits(sequence, 1)[0]
            plain = rounded.logits(sequence, 1)[0]
            error = (kernel.logits() - expected).square().mean().sqrt()
            allowed = (plain - expected).square().mean().sqrt()
            assert error <= 1.1 * allowed, (prompt_len, number)
            (token,) = kernel.tokens(prompt_len + number + 1, 1)
            assert token == int(kernel.logits().argmax())
            sequence.append(token)


def test_the_same_steps_are_bit_identical(source):
    decoder = load(source, "fp16", "cuda:0")
    kernel = StepKernel(decoder.config, decoder.forward, "cuda:0", 256)
    found = []
    for _ in range(20):
        kernel.start(prompt_ids(40)[0])
        for _ in range(100):
            kernel.step()
        found.append((kernel.tokens(40, 100), kernel.logits().clone()))
    for tokens, logits in found[1:]:
        assert tokens == found[0][0]
        assert torch.equal(logits, found[0][1])
