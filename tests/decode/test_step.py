"""The step kernel on an emulated device, against the plain decoder; and compiled for the GPU where there is nvcc."""

import gc
import shutil
import subprocess
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bitbench.decode import load
from bitbench.decode.cuda_source import source
from bitbench.decode.deal import most_tiles
from bitbench.decode.geometry import check, geometry, in_flight
from bitbench.decode.stream import GRANULE, streamed
from bitbench.facts.errors import Unsupported
from tests.decode.emulated import COMPILER, emulated
from tests.decode.gpus import A100, H200, RTX_4090
from tests.decode.stepped import stepped
from tests.decode.test_decoder import write_awq
from tests.engines.tiny import prompt_ids, write_tiny

SMALL = {"hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4, "max_position_embeddings": 1024}
MODELS = {
    "qwen2": ("Qwen2", SMALL),
    "llama-tied": ("Llama", SMALL | {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "qwen3": ("Qwen3", SMALL | {"head_dim": 128}),
    "one-key-head": ("Llama", SMALL | {"num_key_value_heads": 1, "max_position_embeddings": 4096}),
    "wide": ("Llama", SMALL | {"hidden_size": 640, "intermediate_size": 2560, "num_attention_heads": 10,
                               "num_hidden_layers": 1, "num_key_value_heads": 2}),
}  # fmt: skip
needs_compiler = pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")


def model(tmp_path, name, method, group_size=64):
    kind, config = MODELS[name]
    folder = write_tiny(tmp_path / "m", kind, **config)
    if method.startswith("awq"):
        source_folder, folder = folder, tmp_path / "awq"
        write_awq(folder, source_folder, group_size=group_size)
    return load(folder, method)


CASES = [
    *[("qwen2", method, o_parts) for method in ("fp16", "bf16", "int8-wo", "awq-int4-head8") for o_parts in (1, 2)],
    ("llama-tied", "int8-wo", 1), ("llama-tied", "fp16", 4), ("qwen3", "fp16", 2), ("qwen3", "awq-int4", 1),
    ("wide", "awq-int4", 2), ("wide", "fp16", 1),
]  # fmt: skip


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize(("name", "method", "o_parts"), CASES)
def test_logits_and_tokens_are_the_plain_decoders(tmp_path, name, method, o_parts):
    """Errors against float32 arithmetic on the same stored numbers are at most those of the plain 16-bit decoder."""
    decoder = model(tmp_path, name, method)
    exact = decoder.in_float32()
    num_blocks = 9 if decoder.config.num_kv_heads == 4 else 7
    kernel = emulated(decoder, 1024, num_blocks=num_blocks, o_parts=o_parts)
    errors, allowed = [], []
    for prompt_len, num_steps in ((40, 1),) if name == "wide" else ((40, 2), (7, 1), (255, 1)):
        for _, error, plain in stepped(kernel, exact, decoder, prompt_ids(prompt_len, seed=prompt_len), num_steps):
            errors.append(error)
            allowed.append(plain)
    assert sum(errors) <= 1.1**2 * sum(allowed)


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize(("name", "method", "o_parts", "batch_size"), [
    ("qwen2", "fp16", 2, 8), ("qwen2", "awq-int4-head8", 2, 8), ("qwen2", "bf16", 1, 2),
    ("llama-tied", "int8-wo", 4, 3), ("qwen3", "awq-int4", 1, 5), ("wide", "awq-int4", 2, 7),
])  # fmt: skip
def test_a_batch_is_decoded_as_each_of_its_sequences(tmp_path, name, method, o_parts, batch_size):
    decoder = model(tmp_path, name, method)
    exact = decoder.in_float32()
    num_blocks = 9 if decoder.config.num_kv_heads == 4 else 7
    kernel = emulated(decoder, 1024, num_blocks, o_parts=o_parts, num_sequences=batch_size)
    errors, allowed = [], []
    for prompt_len in (40,) if name == "wide" else (40, 150):  # one part of a context, and several
        ids = prompt_ids(prompt_len, batch_size, seed=prompt_len)
        for _, error, plain in stepped(kernel, exact, decoder, ids, 2):
            errors.append(error)
            allowed.append(plain)
    assert sum(errors) <= 1.1**2 * sum(allowed)


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_batchs_sums_are_read_before_the_next_are_written(tmp_path, seed):
    """Of several sequences there is room for one round of sums, and lm_head has more tiles a block than that."""
    decoder = model(tmp_path, "qwen2", "fp16")
    kernel = emulated(decoder, 256, num_blocks=3, o_parts=2, num_sequences=5, seed=seed)
    assert int(kernel.macros()["MOST_HEAD"]) > 8
    steps = list(stepped(kernel, decoder.in_float32(), decoder, prompt_ids(40, 5), 1))
    assert sum(error for _, error, _ in steps) <= 1.1**2 * sum(plain for _, _, plain in steps)


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize(("method", "o_parts"), [("awq-int4", 1), ("awq-int4-head8", 2), ("int8-wo", 1)])
def test_units_of_128_are_in_planes_however_many_there_are(tmp_path, method, o_parts):
    """More of them than warps, in one segment and in several."""
    decoder = model(tmp_path, "wide", method, group_size=128)
    kernel = emulated(decoder, 256, num_blocks=7, o_parts=o_parts)
    steps = list(stepped(kernel, decoder.in_float32(), decoder, prompt_ids(40), 2))
    assert sum(error for _, error, _ in steps) <= 1.1**2 * sum(plain for _, _, plain in steps)


@needs_compiler
@torch.inference_mode()
def test_what_warps_have_at_a_time_may_be_more_than_half_of_the_ring(tmp_path):
    decoder = model(tmp_path, "wide", "fp16")
    kernel = emulated(decoder, 256, num_blocks=7, o_parts=2, num_warps=7, num_granules=6)
    sizes = {name: int(kernel.macros()[name]) for name in ("UNIT", "WARPS", "NUM_GRANULES")}
    assert 2 * 16 * sizes["UNIT"] * sizes["WARPS"] > sizes["NUM_GRANULES"] * GRANULE // 2
    ((_, error, plain),) = stepped(kernel, decoder.in_float32(), decoder, prompt_ids(40), 1)
    assert error <= 1.1 * plain


@needs_compiler
@torch.inference_mode()
def test_down_may_be_cut_into_more_parts_than_suit_the_blocks_best(tmp_path):
    decoder = model(tmp_path, "qwen2", "int8-wo")
    kernel = emulated(decoder, 256, num_blocks=7, o_parts=2, num_sequences=3, num_down_parts=3)
    assert kernel.macros()["DOWN_PARTS"] == "3"
    steps = list(stepped(kernel, decoder.in_float32(), decoder, prompt_ids(40, 3), 1))
    assert sum(error for _, error, _ in steps) <= 1.1**2 * sum(plain for _, _, plain in steps)


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize(("method", "capability"), [("fp16", (8, 0)), ("int8-wo", (9, 0)), ("awq-int4", (9, 0))])
def test_in_a_short_ring_warps_have_fewer_units_at_a_time(tmp_path, method, capability):
    decoder = model(tmp_path, "wide", method)
    kernel = emulated(decoder, 256, num_blocks=7, o_parts=2, num_granules=6, capability=capability)
    ((_, error, plain),) = stepped(kernel, decoder.in_float32(), decoder, prompt_ids(40), 1)
    assert error <= 1.1 * plain


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize("num_sequences", [1, 2])
def test_a_few_tiles_may_be_more_than_a_batch(tmp_path, num_sequences):
    """Then a warp's part of the vector is used more than once, and what zero points need of it is found once."""
    decoder = model(tmp_path, "qwen2", "int8-wo")
    kernel = emulated(decoder, 256, 12, o_parts=2, num_sequences=num_sequences, num_granules=3)
    assert int(kernel.macros()["BATCH_GATE_UP"]) < most_tiles(decoder.forward.weights.streams.shares, "gate_up") <= 5
    steps = list(stepped(kernel, decoder.in_float32(), decoder, prompt_ids(40, num_sequences), 1))
    assert sum(error for _, error, _ in steps) <= 1.1**2 * sum(plain for _, _, plain in steps)


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize(("num_sequences", "o_parts", "capability"), [(1, 2, (9, 0)), (3, 1, (9, 0)), (3, 1, (8, 6))])
def test_blocks_may_tell_how_many_weights_are_to_be_under_way(
    tmp_path, monkeypatch, num_sequences, o_parts, capability
):
    """Then one thread copies, and its warp does nothing else; before 9.0 all of its lanes do."""
    monkeypatch.setattr("bitbench.decode.geometry._IN_FLIGHT", ((0, 1, 3),))
    decoder = model(tmp_path, "qwen2", "awq-int4")
    kernel = emulated(
        decoder,
        256,
        num_blocks=7,
        o_parts=o_parts,
        num_sequences=num_sequences,
        capability=capability,
    )
    assert kernel.macros()["IN_FLIGHT"] != kernel.macros()["IN_FLIGHT_BUSY"]
    steps = list(stepped(kernel, decoder.in_float32(), decoder, prompt_ids(40, num_sequences), 2))
    assert sum(error for _, error, _ in steps) <= 1.1**2 * sum(plain for _, _, plain in steps)


@needs_compiler
@torch.inference_mode()
def test_large_layers_are_waited_for_in_smaller_batches(tmp_path, monkeypatch):
    decoder = model(tmp_path, "wide", "awq-int4")
    plain_weights = decoder.forward.weights
    kernel = emulated(decoder, 256, num_blocks=3, num_granules=6)
    with monkeypatch.context() as patch:
        patch.setattr("bitbench.decode.stream._LARGE", 1 << 40)
        usual = streamed(plain_weights, decoder.config, kernel.geometry.multiplying, 1).streams.batches
    assert int(kernel.macros()["BATCH_GATE_UP"]) == usual["gate_up"] // 2 and usual["gate_up"] > 1
    assert int(kernel.macros()["BATCH_QKV"]) == usual["qkv"]
    ((_, error, plain),) = stepped(kernel, decoder.in_float32(), decoder, prompt_ids(40), 1)
    assert error <= 1.1 * plain


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize(("name", "o_parts", "num_blocks", "prompt_lens"), [
    ("qwen2", 1, 9, (256, 600, 830)),  # two rounds of a block, and more
    ("qwen2", 2, 9, (256, 600, 830)), ("qwen3", 2, 9, (830,)), ("llama-tied", 4, 20, (600,)),
    ("one-key-head", 1, 30, (3000,)),  # 24 parts, which 16 groups of threads join
])  # fmt: skip
def test_a_long_context_is_shared_by_blocks_and_joined(tmp_path, name, o_parts, num_blocks, prompt_lens):
    decoder = model(tmp_path, name, "fp16")
    kernel = emulated(decoder, 4096 if name == "one-key-head" else 1024, num_blocks=num_blocks, o_parts=o_parts)
    for prompt_len in prompt_lens:
        ids = prompt_ids(prompt_len, seed=prompt_len)[0]
        kernel.start(ids)
        sequence = [*ids, *kernel.tokens(prompt_len, 1)]
        kernel.advance(1, keep_logits=True)
        expected, plain = (d.logits(sequence, 1)[0] for d in (decoder.in_float32(), decoder))
        assert (kernel.logits() - expected).square().mean() <= 1.1**2 * (plain - expected).square().mean()


@needs_compiler
@torch.inference_mode()
def test_steps_are_bit_identical_however_they_are_launched_scheduled_and_copied(tmp_path, monkeypatch):
    decoder = model(tmp_path, "qwen2", "awq-int4")
    found = []
    for number, (chunk, capability) in enumerate(((1, (9, 0)), (4, (9, 0)), (2, (8, 0)))):
        kernel = emulated(decoder, 256, o_parts=2, seed=100 * number, capability=capability)
        kernel.start(prompt_ids(40)[0])
        for _ in range(4 // chunk):
            kernel.advance(chunk, keep_logits=True)
        assert len(kernel.step_times_s()) == chunk
        found.append((kernel.tokens(40, 5), kernel.logits().clone()))
    monkeypatch.setattr(
        "bitbench.decode.step_kernel._STEPS_A_LAUNCH", 3
    )  # what is asked for at once is no longer one launch
    kernel.start(prompt_ids(40)[0])
    kernel.advance(4, keep_logits=True)
    assert min(kernel.step_times_s()) > 0 and len(kernel.step_times_s()) == 4
    found.append((kernel.tokens(40, 5), kernel.logits().clone()))
    for tokens, logits in found[1:]:
        assert tokens == found[0][0]
        assert torch.equal(logits, found[0][1])


@needs_compiler
@torch.inference_mode()
def test_a_context_need_not_be_whole_32_positions(tmp_path):
    folder = write_tiny(tmp_path / "m", "Qwen2", **SMALL | {"max_position_embeddings": 50})
    decoder = load(folder, "fp16")
    kernel = emulated(decoder, 64)
    ids = prompt_ids(48)[0]
    kernel.start(ids)
    kernel.advance(1, keep_logits=True)
    sequence = [*ids, *kernel.tokens(48, 1)]
    assert torch.allclose(kernel.logits(), decoder.logits(sequence, 1)[0], atol=2e-3)


@needs_compiler
@torch.inference_mode()
def test_a_forced_token_is_read_instead_of_the_chosen_one(tmp_path):
    decoder = model(tmp_path, "qwen2", "fp16")
    kernel = emulated(decoder, 256)
    ids = prompt_ids(30)[0]
    kernel.start(ids)
    kernel.force(17)
    kernel.advance(1, keep_logits=True)
    assert torch.allclose(kernel.logits(), decoder.logits([*ids, 17], 1)[0], atol=2e-3)


def test_what_the_kernel_cannot_do_has_a_reason(tmp_path):
    config = model(tmp_path, "qwen2", "fp16").config
    check(config, H200)
    for change, capability, told in (
        ({}, (7, 5), "needs compute capability 8.0 and this GPU has 7.5"),
        ({"head_dim": 96}, (9, 0), "head sizes 64 and 128, not 96"),
        ({"num_heads": 20}, (9, 0), "up to 8 query heads a key head, not 20 to 2"),
        ({"intermediate_size": 400}, (8, 0), r"multiples of 32, not \(256, 400\)"),
        ({"group_size": 32}, (8, 9), "groups of a multiple of 64, not 32"),
    ):
        with pytest.raises(Unsupported, match=told):
            check(replace(config, **change), replace(H200, capability=capability))


@needs_compiler
@torch.inference_mode()
def test_wherever_the_blocks_exchange_their_numbers_steps_are_the_same(tmp_path):
    decoder = model(tmp_path, "qwen2", "awq-int4")
    kernel, ids, places = emulated(decoder, 64, o_parts=2), prompt_ids(9, seed=3), []

    def tokens():
        kernel.start_all(ids)
        kernel.advance(4)
        places.append([kernel._buffers[name].data_ptr() for name in ("from_down", "inner")])
        return kernel.all_tokens(9, 5)

    before = tokens()
    for tries in (1, 2):
        kernel.settle(tries, num_steps=1, rounds=tries - 1)
        assert tokens() == before
    assert len({tuple(place) for place in places}) > 1


SIZES = {
    "0.5B": {"HIDDEN": 896, "INTER": 4864, "LAYERS": 24, "HEADS": 14, "KV_HEADS": 2, "HEAD_DIM": 64, "VOCAB": 151936,
             "QKV_BIAS": 1, "QK_NORM": 0, "TIED": 1, "O_PARTS": 2, "DOWN_PARTS": 2, "MOST_QKV": 1, "MOST_O": 1,
             "MOST_GATE_UP": 5, "MOST_DOWN": 1, "MOST_HEAD": 72},
    "7B": {"HIDDEN": 3584, "INTER": 18944, "LAYERS": 28, "HEADS": 28, "KV_HEADS": 4, "HEAD_DIM": 128, "VOCAB": 152064,
           "QKV_BIAS": 1, "QK_NORM": 0, "TIED": 0, "O_PARTS": 4, "DOWN_PARTS": 4, "MOST_QKV": 3, "MOST_O": 7,
           "MOST_GATE_UP": 18, "MOST_DOWN": 7, "MOST_HEAD": 72},
}  # fmt: skip


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
@pytest.mark.parametrize(
    ("name", "sequences", "granules", "in_flight", "capability", "spilled", "bits", "head_bits"),
    [
        *[
            (*how, *kinds)
            for how in (
                ("0.5B", 1, 24, 2, (9, 0), 0), ("0.5B", 8, 18, 2, (9, 0), 128),
                ("7B", 1, 22, 8, (9, 0), 400), ("7B", 4, 18, 8, (9, 0), 1600),
            )
            for kinds in ((16, 16), (8, 8), (4, 16), (4, 8))
        ],
        ("0.5B", 1, 17, 2, (8, 0), 0, 4, 16), ("0.5B", 1, 9, 2, (8, 9), 0, 8, 8),
        ("0.5B", 8, 12, 2, (8, 0), 128, 16, 16), ("7B", 1, 6, 5, (8, 9), 400, 4, 16),
    ],
)  # fmt: skip
def test_the_kernel_compiles_and_spills_little(
    tmp_path, name, sequences, granules, in_flight, capability, spilled, bits, head_bits
):
    unit, several = 128, sequences > 1
    sizes = SIZES[name] | {
        "EPS": "1e-6", "BITS": bits, "HEAD_BITS": head_bits, "UNIT": unit, "O_UNIT": 64, "HEAD_UNIT": unit, "BF16": 0,
        "WARPS": 7, "NUM_GRANULES": granules, "IN_FLIGHT": 2, "IN_FLIGHT_BUSY": in_flight,
        "SEQUENCES": sequences, "ATTENDING": 0, "CHUNK": 32, "SPREAD": 1 if several else 4,
    } | ({"O_PARTS": 1, "O_UNIT": unit} if several else {})  # fmt: skip
    sizes |= {f"BATCH_{name}": 1 if granules == 6 else 8 for name in ("QKV", "O", "GATE_UP", "DOWN", "HEAD")}
    assert spilled_bytes(tmp_path, "step.cu", sizes, capability) <= spilled


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
@pytest.mark.parametrize(("bits", "bf16"), [(16, 0), (16, 1), (8, 0), (8, 1), (4, 0)])
@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0)])
def test_the_gather_kernel_compiles_without_spilling(tmp_path, bits, bf16, capability):
    assert spilled_bytes(tmp_path, "gather.cu", {"BITS": bits, "UNIT": 128, "BF16": bf16}, capability) == 0


def spilled_bytes(folder, name, macros, capability=(9, 0)):
    (folder / name).write_text(source(name, capability), encoding="utf-8")
    command = ["nvcc", "-std=c++17", "-arch=sm_{}{}".format(*capability), "-cubin", "-Xptxas", "-v", name, "-o", "k"]
    command += [f"-D{key}={value}" for key, value in macros.items()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split(" bytes spill stores")[0].split()[-1])


def test_shared_memory_and_blocks_suit_the_model(tmp_path):
    config = model(tmp_path, "qwen2", "fp16").config
    shape = geometry(config, H200)
    assert shape.num_blocks == 48  # a tile of gate and up for each
    assert shape.o_parts == 2 and shape.num_attending == 0
    assert 4 <= shape.num_granules <= 32


def test_a_ring_is_as_long_as_the_gpus_shared_memory_allows_and_down_is_cut_so_that_vectors_fit(tmp_path):
    config = replace(model(tmp_path, "qwen2", "fp16").config, hidden_size=896, intermediate_size=4864)
    for gpu in (H200, A100, RTX_4090):
        shape = geometry(config, gpu)
        assert shape.num_blocks == gpu.multiprocessors
        assert shape.shared_bytes(config) <= gpu.shared_bytes < shape.shared_bytes(config) + GRANULE
    awq = replace(config, group_size=128)
    assert [geometry(awq, A100, num_sequences=n).down_parts for n in (1, 8)] == [1, 2]
    assert geometry(awq, A100, num_sequences=8).shared_bytes(awq) <= A100.shared_bytes


@pytest.mark.parametrize(
    ("hidden", "inter", "bytes_each", "batch_size", "granules"),
    [(64, 128, 2, 1, (1, 1)), (64, 128, 2, 8, (2, 2)), (896, 4864, 1, 1, (2, 2)), (896, 4864, 2, 1, (4, 4)),
     (3584, 18944, 1, 1, (2, 8)), (3584, 18944, 2, 1, (4, 8)), (3584, 18944, 2, 4, (4, 8))],
)  # fmt: skip
def test_larger_layers_and_batches_have_more_under_way(hidden, inter, bytes_each, batch_size, granules):
    def matrix(rows, columns):
        return SimpleNamespace(num_bytes=rows * columns * bytes_each)

    layer = SimpleNamespace(
        matrices=(matrix(hidden, hidden), matrix(hidden, hidden), matrix(2 * inter, hidden), matrix(hidden, inter))
    )
    assert in_flight(SimpleNamespace(layers=[layer]), 132, batch_size) == granules


@needs_compiler
def test_weights_are_in_memory_once(tmp_path):
    decoder = model(tmp_path, "qwen2", "fp16")
    layer = decoder.forward.weights.layers[1]
    before = [weakref.ref(m.weight_OI) for m in layer.matrices]
    del layer
    kernel = emulated(decoder, 64, o_parts=2)
    gc.collect()
    assert all(ref() is None for ref in before)
    stored = decoder.forward.weights.num_bytes
    packed = kernel._buffers["streams"]
    assert stored <= packed.nbytes + decoder.forward.weights.embedding.num_bytes + 100_000
    assert decoder.forward.weights.layers[0].qkv.packed is packed
