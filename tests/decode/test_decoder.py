"""The plain decoder against transformers on small models of every architecture, and what it refuses."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bitbench.decode import Sampling, load
from bitbench.decode.config import parse_config
from bitbench.decode.forward import new_cache
from bitbench.decode.steps import PlainSteps
from bitbench.facts.errors import LoadError, Unsupported
from bitbench.methods.awq_layout import dequantize, round_to_nearest
from tests.engines.tiny import prompt_ids, write_tiny

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama3-rope": ("Llama", {"rope_parameters": LLAMA3}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
}


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request, tmp_path_factory):
    kind, config = MODELS[request.param]
    return write_tiny(tmp_path_factory.mktemp(request.param), kind, **config)


def reference(folder, dtype=torch.float32):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model.generation_config = transformers.GenerationConfig(do_sample=False, use_cache=True, pad_token_id=0)
    return model


@torch.inference_mode()
def test_float32_logits_are_transformers_own(folder):
    theirs, ours = reference(folder), load(folder, dtype=torch.float32)
    ids = prompt_ids(50)
    expected = theirs(torch.tensor(ids)).logits[0]
    assert torch.allclose(ours.logits(ids[0], 50), expected, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 3])
def test_greedy_tokens_are_transformers_own_also_from_a_used_cache(folder, batch):
    theirs, ours = reference(folder), load(folder, dtype=torch.float32)
    for prompt_len, output_len in ((30, 20), (5, 12), (90, 3)):
        ids = prompt_ids(prompt_len, batch)
        inputs = torch.tensor(ids)
        expected = theirs.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=output_len)
        assert ours.generate(ids, output_len, eos_ids=[]) == expected[:, prompt_len:].tolist()


@torch.inference_mode()
def test_a_prompt_read_in_parts_has_the_logits_of_one_read_whole(folder):
    """A whole prompt needs no mask; a part that comes after others does."""
    decoder, ids = load(folder, dtype=torch.float32), torch.tensor(prompt_ids(60, 2))
    whole, parts = (new_cache(decoder.config, 2, 60, torch.float32, "cpu") for _ in range(2))
    expected = decoder.forward.logits(ids, whole, 60)
    found = [decoder.forward.logits(part, parts, part.shape[1]) for part in ids.split([1, 24, 1, 34], dim=1)]
    assert torch.allclose(torch.cat(found, dim=1), expected, atol=2e-5, rtol=1e-4)
    assert torch.allclose(parts.keys, whole.keys, atol=1e-5)


@torch.inference_mode()
def test_rounding_in_16_bit_is_no_worse_than_transformers(folder):
    exact = reference(folder)(torch.tensor(prompt_ids(200))).logits[0]
    theirs = reference(folder, torch.float16)(torch.tensor(prompt_ids(200))).logits[0].float()
    ours = load(folder, "fp16").logits(prompt_ids(200)[0], 200)
    assert (ours - exact).square().mean() <= 1.1**2 * (theirs - exact).square().mean()


def test_each_sequence_ends_with_its_own_eos(folder):
    decoder = load(folder, dtype=torch.float32)
    ids = prompt_ids(10, 2)
    free = decoder.generate(ids, 12, eos_ids=[])
    ends = [free[0][3]]
    cut = decoder.generate(ids, 12, eos_ids=ends)
    for whole, part in zip(free, cut, strict=True):
        stop = whole.index(ends[0]) + 1 if ends[0] in whole else len(whole)
        assert part == whole[:stop]


def test_steps_taken_many_at_once_give_the_same_tokens(folder):
    """As on a GPU, where the host looks at tokens now and then."""
    decoder = load(folder, dtype=torch.float32)
    ids = prompt_ids(10, 2)
    expected = decoder.generate(ids, 40, eos_ids=[])
    steps = PlainSteps(decoder.config, decoder.forward, torch.float32, "cpu", 50, batch_size=2)
    steps.start_all(ids)
    found = replace(decoder, device="cuda:0")._greedy(steps, 10, 40)
    assert [list(row) for row in zip(*found, strict=True)] == expected


def test_sampling_is_repeatable_and_follows_the_temperature(folder):
    decoder = load(folder, dtype=torch.float32)
    ids = prompt_ids(10)
    warm = Sampling(temperature=1.0)
    assert decoder.generate(ids, 8, sampling=warm, seed=3) == decoder.generate(ids, 8, sampling=warm, seed=3)
    assert decoder.generate(ids, 8, sampling=warm, seed=3) != decoder.generate(ids, 8, sampling=warm, seed=4)
    cold = Sampling(temperature=1e-4)
    assert decoder.generate(ids, 8, sampling=cold, seed=3) == decoder.generate(ids, 8)
    assert decoder.generate(ids, 8, sampling=Sampling(temperature=1.0, top_k=1), seed=5) == decoder.generate(ids, 8)
    assert decoder.generate(ids, 8, sampling=Sampling(temperature=1.0, top_p=1e-6), seed=5) == decoder.generate(ids, 8)


@pytest.mark.parametrize(
    ("ids", "new", "message"),
    [
        ([[1, 2], [3]], 4, r"equally long and not empty, these have \[1, 2\]"),
        ([[]], 4, "not empty"),
        ([[1]] * 17, 4, "a batch of 17 is not supported: 1 to 16"),
        ([[1] * 200], 57, "257 tokens are longer than the context of 256"),
        ([[512]], 4, "at least 0 and below 512"),
        ([[-1]], 4, "at least 0"),
    ],
)
def test_bad_prompts_are_refused_before_anything_runs(folder, ids, new, message):
    with pytest.raises(ValueError, match=message):
        load(folder, dtype=torch.float32).generate(ids, new)


def test_int8_rows_err_by_half_a_step_at_most(folder):
    dense, small = load(folder, "fp16", dtype=torch.float32), load(folder, "int8-wo", dtype=torch.float32)
    for exact, stored in zip(dense.forward.weights.layers, small.forward.weights.layers, strict=True):
        for name in ("qkv", "o", "gate_up", "down"):
            weight, matrix = getattr(exact, name).dequantized(), getattr(stored, name)
            assert ((matrix.dequantized() - weight).abs() <= 0.5001 * matrix.scale_O[:, None]).all()
            assert matrix.num_bytes == matrix.shape[0] * (matrix.shape[1] + 4)
            some = torch.tensor([3, 0, 3])
            assert torch.equal(matrix.rows(some), matrix.dequantized()[some])


def test_fp8_rows_err_by_half_a_step_at_most(folder):
    dense, small = load(folder, "fp16", dtype=torch.float32), load(folder, "fp8-wo", dtype=torch.float32)
    for exact, stored in zip(dense.forward.weights.layers, small.forward.weights.layers, strict=True):
        weight, matrix = exact.qkv.dequantized(), stored.qkv
        # Three bits behind the first, down to 2^-9 at the least.
        half_step = torch.maximum(weight.abs() * 2.0**-4, matrix.scale_O[:, None] * 2.0**-10)
        assert ((matrix.dequantized() - weight).abs() <= 1.0001 * half_step).all()
        assert matrix.num_bytes == matrix.shape[0] * (matrix.shape[1] + 4)
        some = torch.tensor([3, 0, 3])
        assert torch.equal(matrix.rows(some), matrix.dequantized()[some])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", ["fp16", "int8-wo", "fp8-wo", "awq-int4"])
def test_a_matrix_in_a_type_is_what_it_means_rounded_once(folder, tmp_path, method, dtype):
    if method == "awq-int4":
        write_awq(tmp_path / "awq", folder)
        folder = tmp_path / "awq"
    for layer in load(folder, method).forward.weights.layers:
        for matrix in (layer.qkv, layer.down):
            assert torch.equal(matrix.in_type(dtype), matrix.dequantized().to(dtype))


def write_awq(folder, source, group_size=32):
    """The 16-bit checkpoint rounded to AutoAWQ's "gemm" layout; returns what the stored numbers mean, by name."""
    tensors, meaning = {}, {}
    for name, weight in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            stored = round_to_nearest(weight, group_size)
            base = name.removesuffix("weight")
            tensors |= {
                base + part: value.contiguous()
                for part, value in zip(("qweight", "qzeros", "scales"), stored, strict=True)
            }
            meaning[base.removesuffix(".")] = dequantize(*stored)
        else:
            tensors[name] = weight.half()
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": group_size, "version": "gemm"}
    (folder / "config.json").write_text(json.dumps(config))
    return meaning


def test_an_awq_checkpoint_means_what_its_layout_says(folder, tmp_path):
    meaning = write_awq(tmp_path / "awq", folder)
    decoder = load(tmp_path / "awq", "awq-int4", dtype=torch.float32)
    assert decoder.config.group_size == 32
    for number, layer in enumerate(decoder.forward.weights.layers):
        at = f"model.layers.{number}."
        qkv = torch.cat([meaning[f"{at}self_attn.{letter}_proj"] for letter in "qkv"])
        assert torch.equal(layer.qkv.dequantized(), qkv)
        gate_up = torch.cat([meaning[f"{at}mlp.{kind}_proj"] for kind in ("gate", "up")])
        assert torch.equal(layer.gate_up.dequantized(), gate_up)
        assert torch.equal(layer.down.dequantized(), meaning[f"{at}mlp.down_proj"])
        some = torch.tensor([5, 1])
        assert torch.equal(layer.o.rows(some), meaning[f"{at}self_attn.o_proj"][some])
    smaller = load(tmp_path / "awq", "awq-int4-head8").forward.weights
    assert smaller.head.num_bytes < 0.6 * load(tmp_path / "awq", "awq-int4").forward.weights.head.num_bytes
    with pytest.raises(Unsupported, match="is an AWQ one, so fp16 cannot be made of it: choose from awq-int4"):
        load(tmp_path / "awq")


BASE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "max_position_embeddings": 256,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma3"}, "architecture 'gemma3' is not supported: llama, qwen2, qwen3 are"),
        ({"hidden_act": "gelu"}, "activation 'gelu' is not supported: silu"),
        ({"head_dim": 33}, "head size 33 is not supported"),
        ({"head_dim": 512}, "head size 512 is not supported"),
        ({"mlp_bias": True}, "mlp_bias is not supported"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rope scaling 'yarn' is not supported: default, linear"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "sliding-window attention is not supported"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "stored quantization gptq .* is not supported"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemv"}}, "layout 'gemv'"),
    ],
)
def test_what_it_cannot_run_is_refused_in_one_line(change, message):
    with pytest.raises(Unsupported, match=message) as caught:
        parse_config(BASE | change)
    assert "\n" not in str(caught.value)


def test_missing_files_and_wrong_methods_have_reasons(tmp_path, folder):
    with pytest.raises(LoadError, match=r"config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(BASE))
    with pytest.raises(LoadError, match=r"model\.safetensors"):
        load(tmp_path)
    with pytest.raises(ValueError, match="unknown method 'int3': choose from fp16, bf16, int8-wo"):
        load(folder, "int3")
    with pytest.raises(Unsupported, match="is no AWQ one, so awq-int4 cannot be made of it: choose from fp16"):
        load(folder, "awq-int4")
