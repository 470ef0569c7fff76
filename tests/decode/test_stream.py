"""Streams hold every number once, in the order in which lanes read them; blocks have equally much to do."""

import numpy as np
import pytest
import torch

from bitbench.decode import gather_kernel, load
from bitbench.decode.deal import Tiles, deal
from bitbench.decode.matrix import Dense, Int4Groups, Int8Rows, int4_groups, int8_rows
from bitbench.decode.stream import GRANULE, Blocks, streamed
from bitbench.decode.tiles import ROWS, parts
from tests.decode.emulated import COMPILER, compiled
from tests.decode.test_decoder import write_awq
from tests.engines.tiny import write_tiny


def lanes_of(unit, bits, inputs):
    """What a unit's bytes mean, [16][inputs], read as the lanes of tile.cuh read them; without scales for 8 bits."""
    found = np.full((ROWS, inputs), np.nan, np.float32)
    for lane in range(32):
        g, t = lane // 4, lane % 4
        for chunk in range(inputs // 32):
            columns = slice(32 * chunk + 8 * t, 32 * chunk + 8 * t + 8)
            if bits == 16:
                for product in range(2):
                    at = 1024 * chunk + 512 * product + 16 * lane
                    a = np.frombuffer(unit[at : at + 16], np.float16).reshape(4, 2)  # fragments a0 to a3
                    first = 32 * chunk + 8 * t + 4 * product
                    found[g, first : first + 4] = np.concatenate((a[0], a[2]))
                    found[g + 8, first : first + 4] = np.concatenate((a[1], a[3]))
            elif bits == 8:
                q = np.frombuffer(unit[512 * chunk + 16 * lane :][:16], np.uint8).astype(np.float32) - 128
                found[g, columns], found[g + 8, columns] = q[:8], q[8:]
            else:
                words = np.frombuffer(unit[512 * (chunk // 2) + 16 * lane :][:16], np.uint32)
                for half, row in ((0, g), (1, g + 8)):
                    word = int(words[chunk % 2 * 2 + half])
                    nibbles = [word >> 4 * i & 15 for i in range(8)]
                    found[row, columns] = [nibbles[i] for i in (0, 4, 2, 6, 1, 5, 3, 7)]
    if bits == 4:
        ends = np.frombuffer(unit[ROWS * inputs // 2 :], np.float16).reshape(8, 2, 2).astype(np.float32)
        for row in range(ROWS):
            scale, zero = ends[row % 8, row // 8]
            found[row] = (found[row] - zero) * scale
    return found


@pytest.mark.parametrize(("bits", "unit"), [(16, 32), (16, 128), (8, 64), (4, 64), (4, 128)])
def test_tiles_mean_what_the_matrix_means(bits, unit):
    torch.manual_seed(0)
    rows, inputs = 40, 256
    weight = torch.randn(rows, inputs)
    if bits == 16:
        matrix = Dense(weight.half())
    elif bits == 8:
        matrix = int8_rows(weight)
    else:
        q = torch.randint(0, 16, (rows, inputs))
        matrix = int4_groups(q, torch.rand(rows, inputs // 128).half(), torch.randint(0, 16, (rows, inputs // 128)))
    found = parts(matrix, unit)
    assert found.num_tiles == 3  # 40 rows are two and a half
    meaning = np.zeros((48, inputs), np.float32)
    meaning[:rows] = matrix.dequantized().numpy()
    for tile in range(3):
        units = [lanes_of(u.numpy().tobytes(), bits, unit) for u in found.units_TUZ[tile]]
        read = np.concatenate(units, axis=1)
        if bits == 8:
            read *= np.frombuffer(found.ends_TZ[tile].numpy().tobytes(), np.float32)[:, None]
        assert np.array_equal(read, meaning[16 * tile : 16 * tile + 16])


def test_every_tile_is_dealt_out_once_and_evenly():
    tiles = {"qkv": Tiles(72, 28_672), "o": Tiles(112, 14_336), "gate_up": Tiles(608, 28_672),
             "down": Tiles(112, 77_824), "head": Tiles(9496, 28_672)}  # fmt: skip
    shares = deal(tiles, 132, 2, 2)
    for name, size in tiles.items():
        ranges = [getattr(share, name) for share in shares]
        assert [n for r in ranges for n in range(r.first, r.first + r.count)] == list(range(size.count))
        counts = {r.count for r in ranges}
        assert max(counts) - min(counts) <= 1
    for share in shares:
        for part in (share.o, share.down):
            assert not part.count or part.first // 56 == (part.first + part.count - 1) // 56, (
                "of one part of the inputs"
            )
    loads = [sum(getattr(s, n).count * t.num_bytes for n, t in tiles.items() if n != "head") for s in shares]
    assert max(loads) < 1.5 * min(loads)


def test_too_many_blocks_for_gate_and_up_are_refused():
    tiles = dict.fromkeys(("qkv", "o", "gate_up", "down", "head"), Tiles(8, 1024))
    with pytest.raises(ValueError, match="8 tiles of gate and up are too few for 9 blocks"):
        deal(tiles, 9, 1, 1)


def model(tmp_path, method):
    folder = write_tiny(tmp_path / "tiny", "Qwen2", tie_word_embeddings=True, hidden_size=256, intermediate_size=384)
    if method.startswith("awq"):
        source, folder = folder, tmp_path / "awq"
        write_awq(folder, source, group_size=64)
    return load(folder, method)


@pytest.mark.parametrize("method", ["fp16", "int8-wo", "awq-int4", "awq-int4-head8"])
def test_streams_hold_every_byte_of_the_weights_once(tmp_path, method):
    decoder = model(tmp_path, method)
    weights, config = decoder.forward.weights, decoder.config
    found = streamed(weights, config, Blocks(3, 4, 32_768), 1).streams
    assert found.packed.shape == (3, max(found.num_granules) * GRANULE)
    stored = [matrix for layer in weights.layers for matrix in layer.matrices]
    # A zero point takes two bytes instead of half a one.
    zeros = sum(m.zero_OG.numel() * 3 // 2 for m in stored if hasattr(m, "zero_OG"))
    # Each part of down has its rows' scales.
    parts = found.cuts.down_parts - 1
    scales = sum(4 * parts * layer.down.shape[0] for layer in weights.layers if hasattr(layer.down, "scale_O"))
    expected = sum(m.num_bytes for m in (*stored, weights.head)) + zeros + scales
    used = [int(row.nonzero().max()) + 1 for row in found.packed]
    assert expected - 256 <= sum(used) <= expected
    assert all(-(-n // GRANULE) == granules for n, granules in zip(used, found.num_granules, strict=True))


@pytest.mark.parametrize("method", ["fp16", "bf16", "int8-wo", "awq-int4", "awq-int4-head8"])
@pytest.mark.parametrize("o_parts", [1, 2])
def test_matrices_in_streams_mean_what_they_meant(tmp_path, monkeypatch, method, o_parts):
    monkeypatch.setattr("bitbench.decode.streamed._TILES_AT_ONCE", 5)
    decoder = model(tmp_path, method)
    plain, index = decoder.forward.weights, torch.tensor([3, 511, 0, 3, 77, 16, 17])
    found = streamed(plain, decoder.config, Blocks(3, 4, 32_768), o_parts)
    assert found.num_bytes == plain.num_bytes
    again = streamed(found, decoder.config, Blocks(40, 4, 16_384), o_parts)  # down is cut into other parts
    assert (found.streams.cuts.down_parts, again.streams.cuts.down_parts) == (3, 2)
    assert streamed(found, decoder.config, Blocks(3, 4, 32_768), o_parts) is found
    for weights in (found, again):
        assert weights.embedding is weights.head
        assert torch.equal(weights.embedding.rows(index), plain.embedding.rows(index))
        pieces = list(weights.head.in_pieces(decoder.dtype))
        assert len(pieces) == 7 and torch.equal(torch.cat(pieces), plain.head.in_type(decoder.dtype))
        for ours, theirs in zip(weights.layers, plain.layers, strict=True):
            for name in ("qkv", "o", "gate_up", "down"):
                matrix, expected = getattr(ours, name), getattr(theirs, name)
                assert (matrix.shape, matrix.num_bytes, matrix.kind) == (
                    expected.shape,
                    expected.num_bytes,
                    type(expected),
                )
                assert torch.equal(matrix.dequantized(), expected.dequantized())
                assert torch.equal(matrix.in_type(decoder.dtype), expected.in_type(decoder.dtype))


@torch.inference_mode()
def test_the_decoder_reads_from_streams_what_it_read_before(tmp_path):
    decoder, ids = model(tmp_path, "awq-int4-head8"), [5, 300, 17, 2]
    before = decoder.logits(ids, 4)
    decoder.forward.weights = streamed(decoder.forward.weights, decoder.config, Blocks(3, 4, 32_768), 2)
    assert torch.equal(decoder.logits(ids, 4), before)
    assert torch.equal(
        decoder.in_float32().logits(ids, 4), model(tmp_path / "b", "awq-int4-head8").in_float32().logits(ids, 4)
    )


def test_groups_that_were_cut_for_parts_of_o_stay_cut(tmp_path):
    folder = write_tiny(tmp_path / "m", "Qwen2", hidden_size=384, intermediate_size=384, num_attention_heads=6)
    write_awq(tmp_path / "awq", folder, group_size=128)
    decoder = load(tmp_path / "awq", "awq-int4")
    plain = decoder.forward.weights
    whole = streamed(streamed(plain, decoder.config, Blocks(3, 4, 32_768), 2), decoder.config, Blocks(3, 4, 32_768), 1)
    assert torch.equal(whole.layers[0].o.dequantized(), plain.layers[0].o.dequantized())


@pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")
@pytest.mark.parametrize("method", ["fp16", "bf16", "int8-wo", "awq-int4", "awq-int4-head8"])
@pytest.mark.parametrize("o_parts", [1, 2])
def test_the_gather_kernel_makes_the_plain_matrices(tmp_path, method, o_parts):
    decoder = model(tmp_path, method)
    plain = decoder.forward.weights
    found = streamed(plain, decoder.config, Blocks(40, 4, 16_384), o_parts)  # down is cut too
    for ours, theirs in [
        (found.head, plain.head),
        *(
            pair
            for a, b in zip(found.layers, plain.layers, strict=True)
            for pair in zip(a.matrices, b.matrices, strict=True)
        ),
    ]:
        options = gather_kernel.macros(ours.kind, ours.dtype, ours.unit, decoder.dtype)
        out = torch.full(theirs.shape, float("nan"), dtype=decoder.dtype)
        compiled("gather.cu", "gather.cc", options)(ours.gathering(slice(None), out), 3, 0)
        assert torch.equal(out, theirs.in_type(decoder.dtype))
    piece = torch.full((100, decoder.config.hidden_size), float("nan"), dtype=decoder.dtype)
    options = gather_kernel.macros(found.head.kind, found.head.dtype, found.head.unit, decoder.dtype)
    compiled("gather.cu", "gather.cc", options)(found.head.gathering(slice(4, 11), piece), 3, 0)
    assert torch.equal(piece, plain.head.in_type(decoder.dtype)[64:164])


def test_the_gather_kernel_leaves_other_types_to_torch():
    assert gather_kernel.macros(Dense, torch.float16, 64, torch.float32) is None
    assert gather_kernel.macros(Dense, torch.float16, 64, torch.bfloat16) is None
    assert gather_kernel.macros(Int4Groups, None, 64, torch.bfloat16) is None
    assert gather_kernel.macros(Int8Rows, None, 64, torch.bfloat16) == {"BITS": "8", "UNIT": "64", "BF16": "1"}
