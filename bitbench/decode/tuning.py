"""How large a part of its work each Triton program takes.

The numbers below are defaults by reasoning alone: NOT YET MEASURED on any GPU.
"""

from dataclasses import dataclass

from bitbench.decode.operands import Operand

_LONG = 16_384
"""A product with so many rows has programs enough for every GPU, so each may take more of them."""
_MOST_PARTS = 64
"""What one program joins at once."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Of a product: rows and stored elements of them at a time, warps of a program, loads under way ahead of use."""

    rows: int
    elements: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class Attending:
    """Of attention: positions at a time, warps of a program, loads under way ahead of use."""

    positions: int = 32
    num_warps: int = 4
    num_stages: int = 2


# "format, one vector or many, few rows or many"; 4-bit elements are words of eight numbers. 16 rows are the least
# that tensor cores multiply.
_PRODUCTS = {
    "16bit one short": Blocks(4, 512, 4, 3),
    "16bit one long": Blocks(8, 512, 4, 3),
    "16bit many short": Blocks(16, 256, 4, 4),
    "16bit many long": Blocks(64, 128, 4, 3),
    "int8 one short": Blocks(4, 1024, 4, 3),
    "int8 one long": Blocks(8, 1024, 4, 3),
    "int8 many short": Blocks(16, 256, 4, 4),
    "int8 many long": Blocks(64, 128, 4, 3),
    "int4 one short": Blocks(4, 128, 4, 3),
    "int4 one long": Blocks(8, 128, 4, 3),
    "int4 many short": Blocks(16, 32, 4, 3),
    "int4 many long": Blocks(64, 16, 4, 3),
}


# Below compute capability 8.0 Triton multiplies without tensor cores, all numbers of a block in registers at once.
_UNTIL_8_0 = {
    f"{kind} many {length}": Blocks(16, elements, 4, 1)
    for kind, elements in (("16bit", 32), ("int8", 32), ("int4", 16))
    for length in ("short", "long")
}


@dataclass(frozen=True, slots=True)
class Tuning:
    """`products` by `product_key`; `parts_per_sm` programs of attention for each multiprocessor, at most."""

    products: dict[str, Blocks]
    attending: Attending = Attending()
    parts_per_sm: int = 2
    norm_warps: int = 4

    def blocks(self, matrix: Operand, batch_size: int) -> Blocks:
        """Of the product of so many vectors and this matrix."""
        return self.products[product_key(matrix, batch_size)]

    def num_parts(self, room: int, heads: int, multiprocessors: int) -> int:
        """Into how many parts attention cuts the positions, for so many (sequence, key head) pairs."""
        useful = -(-room // (2 * self.attending.positions))
        return max(1, min(useful, self.parts_per_sm * multiprocessors // heads, _MOST_PARTS))


def product_key(matrix: Operand, batch_size: int) -> str:
    """What a product's blocks depend on."""
    length = "long" if matrix.shape[0] >= _LONG else "short"
    return f"{matrix.format} {'many' if batch_size > 1 else 'one'} {length}"


def defaults(capability: tuple[int, int]) -> Tuning:
    """For GPUs of this compute capability."""
    return Tuning(_PRODUCTS | (_UNTIL_8_0 if capability < (8, 0) else {}))
