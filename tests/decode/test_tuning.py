"""Block sizes: the defaults, what was measured and kept, and what comes with the package."""

from dataclasses import replace

import pytest

from bitbench.decode import load, tuning
from bitbench.decode.operands import Operand, operand
from bitbench.decode.tuning import SHIPPED, Attending, Blocks, defaults, file, for_gpu, keep, product_key, read
from bitbench.facts.errors import LoadError
from tests.engines.tiny import write_tiny, write_tiny_awq

KEY, OTHER = "int4 one short", "fp8 one long"
BLOCKS = Blocks(2, 64, 1, 2)


def measured(*keys, blocks=BLOCKS, **others):
    """The defaults with other numbers for some products, which were measured."""
    plain = defaults((8, 0))
    return replace(plain, products=plain.products | dict.fromkeys(keys, blocks), measured=frozenset(keys), **others)


def test_there_are_blocks_for_every_product_and_tensor_cores_have_their_least():
    for capability in ((7, 5), (8, 0), (9, 0)):
        products = defaults(capability).products
        assert not defaults(capability).measured
        for format in ("16bit", "int8", "fp8", "int4"):
            for batch in (1, 16):
                for rows in (896, 151_936):
                    key = product_key(Operand(format, (rows, 896), None), batch)
                    blocks = products[key]
                    assert batch == 1 or (blocks.rows >= 16 and blocks.elements >= 16), key


def test_positions_are_cut_for_the_multiprocessors_there_are():
    tuning = replace(defaults((8, 0)), attending=Attending(32), parts_per_sm=2)
    assert tuning.num_parts(room=1024, heads=2, multiprocessors=108) == 16
    assert tuning.num_parts(room=8192, heads=16, multiprocessors=108) == 13
    assert tuning.num_parts(room=32, heads=2, multiprocessors=108) == 1
    assert tuning.num_parts(room=32, heads=999, multiprocessors=108) == 1


def test_what_was_measured_is_read_again_for_that_gpu_alone(own_cache):
    assert for_gpu("A", (8, 0)) == defaults((8, 0))
    keep("A", measured(KEY))
    keep("B", measured(norm_warps=8))
    assert for_gpu("A", (8, 0)) == measured(KEY)
    assert for_gpu("B", (8, 0)).norm_warps == 8
    assert for_gpu("C", (8, 0)) == defaults((8, 0))
    keep("A", measured(OTHER, parts_per_sm=1))
    assert for_gpu("A", (8, 0)) == measured(KEY, OTHER, parts_per_sm=1)


def test_only_measured_products_are_written(own_cache):
    keep("A", measured(KEY))
    assert set(read(file())["A"].products) == {KEY}
    assert for_gpu("A", (7, 5)).products == defaults((7, 5)).products | {KEY: BLOCKS}


def test_the_users_own_comes_before_the_packages_and_both_before_the_defaults(own_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SHIPPED", tmp_path / "tuning.json")
    assert for_gpu("A", (8, 0)) == defaults((8, 0))
    keep("A", measured(KEY, OTHER, norm_warps=2), tuning.SHIPPED)
    assert not file().exists()
    assert for_gpu("A", (8, 0)) == measured(KEY, OTHER, norm_warps=2)
    own = Blocks(4, 64, 2, 1)
    keep("A", measured(KEY, blocks=own, norm_warps=8))
    found = for_gpu("A", (8, 0))
    assert (found.products[KEY], found.products[OTHER], found.norm_warps) == (own, BLOCKS, 8)
    assert found.measured == {KEY, OTHER}
    assert for_gpu("B", (8, 0)) == defaults((8, 0))


@pytest.mark.parametrize("text", ["{", '{"A": {"products": {}, "norm_warps": 4, "measured": true}}'])
def test_a_damaged_or_older_file_has_a_reason(text, own_cache):
    keep("A", measured(KEY))
    file().write_text(text)
    with pytest.raises(LoadError, match="remove it and measure again"):
        for_gpu("A", (8, 0))


def test_what_comes_with_the_package_is_what_a_search_can_find():
    search = pytest.importorskip("bitbench.decode.search", reason="needs triton")
    tables = read(SHIPPED)
    assert tables
    for name, table in tables.items():
        assert table.measured and table.measured <= defaults((9, 0)).products.keys(), name
        for key in table.products:
            # Each number is one that its neighbours go back to.
            for other in search.neighbours(table, key):
                assert table in search.neighbours(other, key), (name, key)
        assert list(search.attending(table)).count(table) == 5, name


def test_some_gpus_have_tables_for_some_products_and_others_the_defaults(own_cache):
    plain = defaults((9, 0))
    tall_int4 = {"int4 one long", "int4 many long"}
    int8 = {key for key in plain.products if key.startswith("int8")}
    assert for_gpu("NVIDIA H200", (9, 0)).measured == plain.products.keys() - tall_int4
    assert for_gpu("NVIDIA H100 80GB HBM3", (9, 0)).measured == plain.products.keys() - tall_int4 - int8
    assert for_gpu("NVIDIA H100 PCIe", (9, 0)) == plain


@pytest.mark.parametrize("method", ["fp16", "int8-wo", "fp8-wo", "awq-int4-head8"])
def test_the_products_of_a_step_are_known_before_its_matrices_are_packed(method, tmp_path):
    folder = write_tiny(tmp_path / "m")
    if method.startswith("awq"):
        folder = write_tiny_awq(folder, tmp_path / "awq")
    weights = load(folder, method).forward.weights
    for batch in (1, 8):
        packed = [operand(m) for m in (weights.layers[0].qkv, weights.layers[0].down, weights.head)]
        assert tuning.product_keys(weights, batch) == {product_key(matrix, batch) for matrix in packed}
