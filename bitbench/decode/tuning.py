"""How large a part of its work each Triton program takes.

The defaults below are untuned: no GPU's times chose them. `bitbench tune` measures on the GPU at hand and keeps what it
finds in the user's cache folder, from where it is read again. What it found on some GPUs comes with the package, in
`data/tuning.json`. Both files hold a table for each GPU, and a table holds measured products and no others.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bitbench.decode.operands import FORMATS, Format, Operand
from bitbench.decode.weights import Weights
from bitbench.facts.errors import LoadError
from bitbench.methods import cache

_LONG = 16_384
"""A product with so many rows has programs enough for every GPU, so each may take more of them."""
_MOST_PARTS = 64
"""What one program joins at once."""

SHIPPED = Path(__file__).parent / "data" / "tuning.json"
"""What comes with the package: copied from the user's file by scripts/ship_tuning.py."""
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

    `measured` names the products whose blocks were chosen by times on such a GPU.
    """

    products: dict[str, Blocks]
    attending: Attending = Attending()
    parts_per_sm: int = 2
    norm_warps: int = 4
    measured: frozenset[str] = frozenset()

    def blocks(self, matrix: Operand, batch_size: int) -> Blocks:
        """Of the product of so many vectors and this matrix."""
        return self.products[product_key(matrix, batch_size)]

    def num_parts(self, room: int, heads: int, multiprocessors: int) -> int:
        """Into how many parts attention cuts the positions, for so many (sequence, key head) pairs."""
        useful = -(-room // (2 * self.attending.positions))
        return max(1, min(useful, self.parts_per_sm * multiprocessors // heads, _MOST_PARTS))


def product_key(matrix: Operand, batch_size: int) -> str:
    """What a product's blocks depend on."""
    return _key(matrix.format, matrix.shape[0], batch_size)


def product_keys(weights: Weights, batch_size: int) -> set[str]:
    """Of all products of a step."""
    matrices = [m for layer in weights.layers for m in layer.matrices]
    return {_key(FORMATS[m.kind], m.shape[0], batch_size) for m in (*matrices, weights.head)}


def _key(format: Format, num_rows: int, batch_size: int) -> str:
    length = "long" if num_rows >= _LONG else "short"
    return f"{format} {'many' if batch_size > 1 else 'one'} {length}"


def defaults(capability: tuple[int, int]) -> Tuning:
    """For GPUs of this compute capability."""
    return Tuning(_PRODUCTS | (_UNTIL_8_0 if capability < (8, 0) else {}))


_TABLES = TypeAdapter(dict[str, Tuning])


def file() -> Path:
    """Where what was measured is kept, by the GPU's name."""
    return cache.folder() / _FILE


def for_gpu(name: str, capability: tuple[int, int]) -> Tuning:
    """What was measured on such a GPU: the user's own first, then what comes with the package, else the defaults.

    The order holds for each product. Raises LoadError for a file that is damaged or older.
    """
    found = defaults(capability)
    for tables in (read(SHIPPED), read(file())):
        if name in tables:
            found = _over(found, tables[name])
    return found


def keep(name: str, tuning: Tuning, path: Path | None = None) -> None:
    """Write what was measured on such a GPU beside what there is: into the user's file, or another."""
    path = path or file()
    tables = read(path)
    table = replace(tuning, products={key: tuning.products[key] for key in sorted(tuning.measured)})
    tables[name] = _over(tables[name], table) if name in tables else table
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_TABLES.dump_json(tables, indent=1, exclude={"__all__": {"measured"}}) + b"\n")


def read(path: Path) -> dict[str, Tuning]:
    """The tables of a file by GPU, none where there is no file. Raises LoadError."""
    if not path.exists():
        return {}
    try:
        tables = _TABLES.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise LoadError(f"cannot read {path}: remove it and measure again with bitbench tune") from error
    return {name: replace(table, measured=frozenset(table.products)) for name, table in tables.items()}


def _over(below: Tuning, table: Tuning) -> Tuning:
    """`below`, with all that the table holds in its place."""
    return replace(table, products=below.products | table.products, measured=below.measured | table.measured)
