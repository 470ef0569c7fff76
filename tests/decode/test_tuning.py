"""Block sizes: the defaults, and what was measured and kept."""

from dataclasses import replace

import pytest

from bitbench.decode.operands import Operand
from bitbench.decode.tuning import Attending, Blocks, defaults, file, for_gpu, keep, product_key
from bitbench.facts.errors import LoadError


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
    plain = defaults((8, 0))
    assert for_gpu("A", (8, 0)) == plain
    measured = replace(plain, products=plain.products | {"int4 one short": Blocks(2, 64, 1, 2)}, measured=True)
    keep("A", measured)
    keep("B", replace(plain, norm_warps=8, measured=True))
    assert for_gpu("A", (8, 0)) == measured
    assert for_gpu("B", (8, 0)).norm_warps == 8
    assert for_gpu("C", (8, 0)) == plain


def test_a_damaged_file_has_a_reason(own_cache):
    keep("A", defaults((8, 0)))
    file().write_text("{")
    with pytest.raises(LoadError, match="remove it, or measure again"):
        for_gpu("A", (8, 0))
