"""How the step kernel is laid out on a GPU for a model and a number of sequences, and whether it can be."""

from dataclasses import dataclass

from bitbench.decode.config import DecoderConfig
from bitbench.decode.deal import down_parts
from bitbench.decode.hardware import Hardware
from bitbench.decode.step_source import NUM_WARPS
from bitbench.decode.stream import GRANULE, Blocks, bytes_a_block
from bitbench.decode.tiles import MOST_TILES, ROWS
from bitbench.decode.weights import Weights
from bitbench.facts.errors import Unsupported

_CAPABILITY = (8, 0)
# What of its beginning the ring repeats at its end (sizes.cuh).
_TAIL = 4096
MAX_BATCH = 8
"""A product on tensor cores has so many columns."""
# Numbers of the residuals that a thread keeps in registers; more are spilled (3B: 2.2 KB for 6
# sequences, 7B: 1.5 KB for 4).
_MOST_RESIDUALS = 96
# More would be missed where the weights are multiplied.
_MOST_ATTENDING, _MOST_O_PARTS = 8, 4
# Granules under way at a time, while a block waits for others and while it multiplies, by the bytes of a layer that it
# multiplies: what blocks exchange queues up behind more, and with less the memory idles. Measured on an H200 at 57,
# 113, 226, 890 and 3,530 KB (docs/log.md). Where both are the same, blocks need not tell what they do, and the warp
# that copies multiplies while it waits (ring.cuh): from 500 KB on it has too much to copy for that.
_IN_FLIGHT = ((2_000_000, 4, 8), (500_000, 2, 8), (150_000, 4, 4), (100_000, 2, 2), (0, 1, 1))
_SPREAD = 4
"""Of one sequence: more take so much longer to be read that lines in turn cost more than they save (docs/log.md)."""
_LEAST_OF_BATCH = 2
"""Granules under way with several sequences: products take longer then."""


def check(config: DecoderConfig, gpu: Hardware, batch_size: int = 1) -> None:
    """Raises Unsupported, naming what the kernel can do."""
    if batch_size > MAX_BATCH:
        raise Unsupported(f"the step kernel decodes up to {MAX_BATCH} sequences at once, not {batch_size}")
    if gpu.capability < _CAPABILITY:
        has = ".".join(map(str, gpu.capability))
        raise Unsupported(f"the step kernel needs compute capability 8.0 and this GPU has {has}")
    if config.head_dim not in (64, 128):
        raise Unsupported(f"the step kernel supports head sizes 64 and 128, not {config.head_dim}")
    if config.num_heads % config.num_kv_heads or config.num_heads // config.num_kv_heads > 8:
        raise Unsupported(
            f"the step kernel supports up to 8 query heads a key head, not {config.num_heads} to {config.num_kv_heads}"
        )
    sizes = (config.hidden_size, config.intermediate_size)
    if any(size % 32 for size in sizes):
        raise Unsupported(f"the step kernel needs sizes that are multiples of 32, not {sizes}")
    if config.group_size % 64:
        raise Unsupported(f"the step kernel needs groups of a multiple of 64, not {config.group_size}")


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the kernel is laid out on a GPU: blocks that run at once, how many of them, the last ones, are for attention
    alone, into how many parts o is cut (1, or the key heads) and down, warps in each that multiply, the length of the
    ring, and how many sequences are decoded.
    """

    num_blocks: int
    num_attending: int
    o_parts: int
    down_parts: int
    num_warps: int
    num_granules: int
    num_sequences: int = 1

    def shared_bytes(self, config: DecoderConfig) -> int:
        """Of shared memory, ring and all."""
        inputs = _inputs(config, self.o_parts, self.down_parts)
        beside = _beside_ring(config, inputs, self.num_warps, self.num_sequences)
        return GRANULE * self.num_granules + _TAIL + beside

    @property
    def multiplying(self) -> Blocks:
        """Half of the ring at once: while it is worked on, the rest is filled."""
        return Blocks(self.num_blocks - self.num_attending, self.num_warps, self.num_granules * GRANULE // 2)

    @property
    def spread(self) -> int:
        """How many sectors of L2 (32 bytes) apart neighbouring ones of what down sends lie."""
        return _SPREAD if self.num_sequences == 1 else 1

    def macros(self) -> dict[str, str]:
        """As the kernel wants them."""
        return {
            "WARPS": str(self.num_warps),
            "NUM_GRANULES": str(self.num_granules),
            "SEQUENCES": str(self.num_sequences),
            "ATTENDING": str(self.num_attending),
            "SPREAD": str(self.spread),
        }


def geometry(config: DecoderConfig, gpu: Hardware, num_warps: int = NUM_WARPS, *, num_sequences: int = 1) -> Geometry:
    """A block a multiprocessor at most: each that multiplies needs a tile of gate and up, and a thread of each hears of
    all.

    With few key heads each block that has a part of o attends for it itself; each part is one more vector that every
    block must read, so with more of them, or of sequences, some blocks attend for all.

    Raises Unsupported where the vectors of so many sequences leave too little shared memory for weights, or their
    residuals too few registers.
    """
    columns = 1 << (num_sequences - 1).bit_length()
    residuals = 4 * columns * -(-config.hidden_size // (4 * 32 * num_warps))
    if num_sequences > 1 and residuals > _MOST_RESIDUALS:
        raise Unsupported(
            f"the step kernel cannot hold {num_sequences} residuals of {config.hidden_size} numbers in its registers"
        )
    heads = config.num_kv_heads
    few = heads <= _MOST_O_PARTS and (config.q_size // heads) % 32 == 0
    cut = few and num_sequences == 1
    attending = heads if not few and heads <= _MOST_ATTENDING else 0
    count = min(gpu.multiprocessors, config.intermediate_size // 8 + attending, 32 * num_warps)
    o_parts = heads if cut else 1
    possible = down_parts(config, count - attending)
    for parts in possible:
        inputs = _inputs(config, o_parts, parts)
        free = gpu.shared_bytes - _TAIL - _beside_ring(config, inputs, num_warps, num_sequences)
        # What the warps have at least of a 16-bit matrix at a time, a unit each (Tile::segment of tile.cuh), must fit
        # with two granules, and for several sequences, whose products take longer, twice.
        least = 2 * ROWS * min(inputs, num_warps * 128)
        more = max(least, 2 * GRANULE) if num_sequences > 1 else 2 * GRANULE
        if free // GRANULE * GRANULE >= least + more:
            return Geometry(count, attending, o_parts, parts, num_warps, min(free // GRANULE, 32), num_sequences)
    inputs = _inputs(config, o_parts, possible[0])
    raise Unsupported(f"the step kernel cannot hold {num_sequences} vectors of {inputs} numbers beside the weights")


def in_flight(weights: Weights, num_blocks: int, num_sequences: int = 1) -> tuple[int, int]:
    """Granules that a block has under way at a time, while it waits for others and while it multiplies."""
    a_block = bytes_a_block(weights, num_blocks)
    waiting, multiplying = next((w, m) for least, w, m in _IN_FLIGHT if a_block >= least)
    least = _LEAST_OF_BATCH if num_sequences > 1 else 1
    return max(waiting, least), max(multiplying, least)


def _inputs(config: DecoderConfig, o_parts: int, num_down_parts: int) -> int:
    """Of the longest vector that a block multiplies: it has parts of those of o and down."""
    return max(config.hidden_size, config.q_size // o_parts, config.intermediate_size // num_down_parts)


def _beside_ring(config: DecoderConfig, inputs: int, num_warps: int, num_sequences: int) -> int:
    """Bytes that the kernel keeps in shared memory beside its ring, at most (struct Shared of step.cu), where the
    longest vector has so many inputs.
    """
    # In two halves, a row's sums of up to eight warps; of several sequences each warp's rows, with some room (TILE_SUMS
    # of product.cuh).
    sums = 2 * 8 * ROWS if num_sequences == 1 else num_warps * num_sequences * (ROWS + 4) + 8
    partial = 4 * MOST_TILES * sums
    group, head_dim = config.num_heads // config.num_kv_heads, config.head_dim
    joined = 4 * 4 * 18  # a warp's part of what joins the parts of a long context
    attention = 16 * (head_dim + 32) + 4 * head_dim + 32 + num_warps * (64 + max(4 * group * (head_dim + 8), joined))
    planes = 8 * -(-inputs // 64) if num_sequences == 1 else 8
    vectors = num_sequences * (2 * inputs + 64) + planes
    squares = 3 * 8 * 8 * 4
    return 2 * 8 * 32 + 16 * num_warps + squares + vectors + max(partial, attention) + 384
