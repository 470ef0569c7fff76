"""How large a part of its work each Triton program takes.

The defaults below are untuned: no GPU has measured them yet. `bitbench tune` measures on the GPU at hand and
keeps what it finds in the user's cache folder, from where it is read again.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bitbench.decode.operands import Operand
from bitbench.facts.errors import LoadError
from bitbench.methods import cache

_LONG = 16_384
"""A product with so many rows has programs enough for every GPU, so each may take more of them."""
_MOST_PARTS = 64
"""What one program joins at once."""


_FILE = "decode-tuning.json"


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
    **{
        f"{kind} {shape}": blocks
        for kind in ("int8", "fp8")
        for shape, blocks in {
            "one short": Blocks(4, 1024, 4, 3),
            "one long": Blocks(8, 1024, 4, 3),
            "many short": Blocks(16, 256, 4, 4),
            "many long": Blocks(64, 128, 4, 3),
        }.items()
    },
    "int4 one short": Blocks(4, 128, 4, 3),
    "int4 one long": Blocks(8, 128, 4, 3),
    "int4 many short": Blocks(16, 64, 4, 4),
    "int4 many long": Blocks(64, 64, 4, 3),
}
# Below compute capability 8.0 Triton multiplies without tensor cores, all numbers of a block in registers at once.
_UNTIL_8_0 = {
    f"{kind} many {length}": Blocks(16, elements, 4, 1)
    for kind, elements in (("16bit", 32), ("int8", 32), ("fp8", 32), ("int4", 16))
    for length in ("short", "long")
}


@dataclass(frozen=True, slots=True)
class Tuning:
    """`products` by `product_key`; `parts_per_sm` programs of attention for each multiprocessor, at most.

    `measured` says whether the GPU's own times chose it.
    """

    products: dict[str, Blocks]
    attending: Attending = Attending()
    parts_per_sm: int = 2
    norm_warps: int = 4
    measured: bool = False

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


_KEPT = TypeAdapter(dict[str, Tuning])


def file() -> Path:
    """Where what was measured is kept, by the GPU's name."""
    return cache.folder() / _FILE


def for_gpu(name: str, capability: tuple[int, int]) -> Tuning:
    """What was measured on such a GPU, else the defaults. Raises LoadError for a file that is damaged."""
    return _kept().get(name) or defaults(capability)


def keep(name: str, tuning: Tuning) -> None:
    """Write what was measured on such a GPU beside what there is of others."""
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_KEPT.dump_json(_kept() | {name: tuning}, indent=1))


def _kept() -> dict[str, Tuning]:
    path = file()
    if not path.exists():
        return {}
    try:
        return _KEPT.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise LoadError(f"cannot read {path}: remove it, or measure again with bitbench tune") from error
