"""A Triton kernel that reads a buffer and keeps only its sum. Reference: `sum(x) mod 2**32`, see `checksum`.

Import it inside a function: it needs triton.
"""

from typing import Any

import triton
import triton.language as tl


# The counts change with every size; specialising on them would compile a kernel for each.
# Only constexpr may be annotated: the compiler looks annotations up as it looks up variables.
@triton.jit(do_not_specialize=["num_blocks", "num_passes"])  # type: ignore[untyped-decorator]
def read_blocks(x_ptr, out_ptr, num_blocks, num_passes, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Read `num_blocks` blocks of BLOCK int32 `num_passes` times; one wrapped sum a program goes to `out_ptr`.

    Four blocks are in flight before the first is used, 16 bytes a thread and load. Loads go past L1 (`.cg`): kernels of
    a decoder can't keep weights there from one step to the next. A program reads the same blocks in every pass: were
    they handed round, programs that run ahead would leave in L2 what those behind read next (seen on an H200: 6.5 TB/s
    over 1 GB, of 4.8 on its datasheet). Offsets are int32: a buffer has at most 2**30 values.
    """
    program = tl.program_id(0)
    num_programs = tl.num_programs(0)
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.int32)
    for _ in range(num_passes):
        for block in range(program, num_blocks, num_programs * 4):
            b1 = block + num_programs
            b2 = b1 + num_programs
            b3 = b2 + num_programs
            x0 = tl.load(x_ptr + block * BLOCK + lanes, cache_modifier=".cg")
            x1 = tl.load(x_ptr + b1 * BLOCK + lanes, mask=b1 < num_blocks, other=0, cache_modifier=".cg")
            x2 = tl.load(x_ptr + b2 * BLOCK + lanes, mask=b2 < num_blocks, other=0, cache_modifier=".cg")
            x3 = tl.load(x_ptr + b3 * BLOCK + lanes, mask=b3 < num_blocks, other=0, cache_modifier=".cg")
            total += (x0 + x1) + (x2 + x3)
    tl.store(out_ptr + program, tl.sum(total, axis=0))


def checksum(x: Any) -> int:
    """The sum of an int32 tensor modulo 2**32: what the sums of one pass of `read_blocks` must add up to."""
    import torch

    return int(x.sum(dtype=torch.int64).item()) % 2**32
