"""The transformers engine on a tiny model: right tokens, right bytes, one tick a token."""

import pytest
import torch
import transformers

from bitbench.engines.transformers import TransformersEngine, TransformersModel
from bitbench.engines.weights import unread_embedding_bytes, weights_bytes
from bitbench.facts.errors import LoadError
from bitbench.methods.registry import parse_method
from tests.engines.tiny import VOCAB, checkpoint, write_tiny


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"), tie_word_embeddings=request.param)


def load(folder, method: str) -> TransformersModel:
    return TransformersEngine().load(checkpoint(folder), parse_method(method), "cpu", False)


@pytest.mark.parametrize("method", ["fp16", "bf16", "bnb-int8", "bnb-int8-t0", "bnb-nf4"])
def test_greedy_tokens_one_tick_each_and_no_early_end(folder, method):
    model = load(folder, method)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCAB, (2, 12), generator=generator).tolist()
    ticks: list[int] = []
    new = model.generate(ids, 20, lambda: ticks.append(1))
    assert [len(row) for row in new] == [20, 20]
    assert len(ticks) == 20
    for prompt, output in zip(ids, new, strict=True):
        gaps = model.top_gaps([*prompt, *output], 20)
        assert sum(gap <= 0.25 for gap in gaps) >= 19
        wrong = [(token + 1) % VOCAB for token in output]
        assert max(model.top_gaps([*prompt, *wrong], 20)) > 0.5


def test_tokens_are_the_plain_argmax_of_the_reference(folder):
    """No repetition penalty and no sampling, whatever the checkpoint says: equal to argmax by hand."""
    model = load(folder, "bf16")
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    ids = [5, 9, 300, 17]
    by_hand = list(ids)
    with torch.inference_mode():
        for _ in range(10):
            by_hand.append(int(reference(torch.tensor([by_hand])).logits[0, -1].argmax()))
    assert model.generate([ids], 10, None)[0] == by_hand[4:]


def test_kv_cache_bytes_are_those_of_prompt_and_output_but_the_last(folder):
    model = load(folder, "bf16")
    model.generate([[1, 2, 3, 4]], 7, None)
    assert model.kv_bytes_per_token() == 2 * 2 * 2 * 16 * 2
    assert model.kv_cache_bytes() == model.kv_bytes_per_token() * (4 + 7 - 1)


def test_weights_are_counted_once_with_their_quantization_state(folder):
    """bitsandbytes' sizes by hand: int8 has a float32 scale a row; NF4 half a byte, absmax per 64, code and offset."""
    sixteen = load(folder, "bf16")._model
    by_hand = sum(p.numel() * 2 for p in sixteen.parameters())
    assert weights_bytes(sixteen) == by_hand
    linears = [m for n, m in sixteen.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    elements = sum(m.weight.numel() for m in linears)
    rows = sum(m.out_features for m in linears)
    assert load(folder, "bnb-int8").weights_bytes() == by_hand - 2 * elements + elements + 4 * rows
    nf4 = load(folder, "bnb-nf4").weights_bytes()
    packed = by_hand - 2 * elements + elements // 2 + elements // 64 * 4
    assert packed <= nf4 <= packed + len(linears) * 4 * 17


def test_unread_embedding_is_the_untied_one(folder):
    model = load(folder, "bf16")._model
    expected = 0 if model.config.tie_word_embeddings else VOCAB * 64 * 2
    assert unread_embedding_bytes(model) == expected


def test_kernel_report_names_the_classes(folder):
    assert load(folder, "bf16").kernels().module_classes == {"Linear": 14}
    assert load(folder, "bnb-int8").kernels().module_classes == {"Linear8bitLt": 14}
    assert load(folder, "bnb-nf4").kernels().module_classes == {"Linear4bit": 14}


def test_a_truncated_checkpoint_is_a_load_error(folder, tmp_path):
    for file in folder.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    with pytest.raises(LoadError):
        load(tmp_path, "bf16")


def test_a_kernel_for_cuda_is_refused_on_a_cpu():
    answer = TransformersEngine().supports(parse_method("awq-int4:marlin"), "cpu")
    assert not answer.ok
    assert "needs a CUDA device" in answer.reason
