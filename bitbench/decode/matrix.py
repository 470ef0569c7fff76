"""Weight matrices as they are stored, each able to say what its numbers mean.

Rows are outputs in all of them, so that projections that read the same vector are stacked into one matrix.
Shapes: O outputs, I inputs, G groups of inputs, P = I / 2 bytes of two 4-bit numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Matrix(Protocol):
    """A matrix [O, I] that multiplies a vector of I numbers."""

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""

    @property
    def num_bytes(self) -> int:
        """As stored, scales and zero points included."""

    @property
    def kind(self) -> type["Matrix"]:
        """The class below that says how its numbers are stored."""

    def plain(self) -> "Matrix":
        """The same as one of the classes below."""

    def dequantized(self) -> Any:
        """float32 [O, I]: exactly what the stored numbers mean."""

    def in_type(self, dtype: Any) -> Any:
        """The same rounded to a type, [O, I], with as few passes over memory as can be."""

    def in_pieces(self, dtype: Any) -> Iterator[Any]:
        """The same as `in_type`, some rows at a time where they are made anew and very many."""

    def rows(self, index_N: Any) -> Any:
        """float32 [N, I]: some rows, as an embedding looks them up."""


class _Plain:
    """What a matrix says of itself whose numbers are its own."""

    __slots__ = ()

    @property
    def kind(self) -> Any:
        """Its class."""
        return type(self)

    def plain(self) -> Any:
        """It is."""
        return self

    def in_pieces(self: Matrix, dtype: Any) -> Iterator[Any]:
        """One."""
        yield self.in_type(dtype)


@dataclass(frozen=True, slots=True)
class Dense(_Plain):
    """16 bits a weight."""

    weight_OI: Any

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return (self.weight_OI.shape[0], self.weight_OI.shape[1])

    @property
    def num_bytes(self) -> int:
        """Two a weight."""
        return int(self.weight_OI.nbytes)

    def dequantized(self) -> Any:
        """The weights themselves."""
        return self.weight_OI.float()

    def in_type(self, dtype: Any) -> Any:
        """The weights themselves, where that is their type."""
        return self.weight_OI.to(dtype)

    def rows(self, index_N: Any) -> Any:
        """The rows themselves."""
        return self.weight_OI[index_N].float()


@dataclass(frozen=True, slots=True)
class Int8Rows(_Plain):
    """8 bits a weight and one scale a row: weight = q x scale, q from -127 to 127 (W8A16)."""

    q_OI: Any
    scale_O: Any

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return (self.q_OI.shape[0], self.q_OI.shape[1])

    @property
    def num_bytes(self) -> int:
        """One a weight and four a row."""
        return int(self.q_OI.nbytes + self.scale_O.nbytes)

    def dequantized(self) -> Any:
        """q x scale."""
        return self.q_OI.float() * self.scale_O[:, None]

    def in_type(self, dtype: Any) -> Any:
        """q x scale in float32, then rounded, in one pass."""
        import torch

        weight_OI = torch.empty(self.shape, dtype=dtype, device=self.q_OI.device)
        return torch.mul(self.q_OI, self.scale_O[:, None], out=weight_OI)

    def rows(self, index_N: Any) -> Any:
        """q x scale of some rows."""
        return self.q_OI[index_N].float() * self.scale_O[index_N, None]


@dataclass(frozen=True, slots=True)
class Fp8Rows(_Plain):
    """8-bit floats (E4M3, arXiv 2209.05433) and one scale a row: weight = number x scale. `bits_OI` is uint8."""

    bits_OI: Any
    scale_O: Any

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return (self.bits_OI.shape[0], self.bits_OI.shape[1])

    @property
    def num_bytes(self) -> int:
        """One a weight and four a row."""
        return int(self.bits_OI.nbytes + self.scale_O.nbytes)

    def dequantized(self) -> Any:
        """number x scale."""
        return self._meaning(self.bits_OI, self.scale_O)

    def in_type(self, dtype: Any) -> Any:
        """number x scale in float32, then rounded."""
        return self.dequantized().to(dtype)

    def rows(self, index_N: Any) -> Any:
        """number x scale of some rows."""
        return self._meaning(self.bits_OI[index_N], self.scale_O[index_N])

    def _meaning(self, bits_NI: Any, scale_N: Any) -> Any:
        import torch

        return bits_NI.view(torch.float8_e4m3fn).float() * scale_N[:, None]


@dataclass(frozen=True, slots=True)
class Int4Groups(_Plain):
    """4 bits a weight, a scale and a zero point for each group of inputs: weight = (q - zero) x scale, q from 0 to 15.

    `q_OP` holds two neighbouring inputs in a byte, the first in the low half.
    """

    q_OP: Any
    scale_OG: Any
    zero_OG: Any

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return (self.q_OP.shape[0], 2 * self.q_OP.shape[1])

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return int(self.shape[1] // self.scale_OG.shape[1])

    @property
    def num_bytes(self) -> int:
        """Half a byte a weight; two bytes of scale and half a one of zero point for each group."""
        return int(self.q_OP.nbytes + self.scale_OG.nbytes + self.zero_OG.nbytes // 2)

    def dequantized(self) -> Any:
        """(q - zero) x scale."""
        import torch

        return self._meaning(self.q_OP, self.scale_OG, self.zero_OG, torch.float32)

    def in_type(self, dtype: Any) -> Any:
        """(q - zero) x scale. In the type of the scales the difference is exact and the product rounded once, as it
        is from float32; in any other type it comes from float32.
        """
        import torch

        exact = dtype if self.scale_OG.dtype == dtype else torch.float32
        return self._meaning(self.q_OP, self.scale_OG, self.zero_OG, exact).to(dtype)

    def rows(self, index_N: Any) -> Any:
        """(q - zero) x scale of some rows."""
        import torch

        return self._meaning(self.q_OP[index_N], self.scale_OG[index_N], self.zero_OG[index_N], torch.float32)

    def _meaning(self, q_NP: Any, scale_NG: Any, zero_NG: Any, dtype: Any) -> Any:
        import torch

        q_NGK = torch.stack((q_NP & 15, q_NP >> 4), dim=-1).reshape(q_NP.shape[0], scale_NG.shape[1], -1)
        centred_NGK = q_NGK - zero_NG.to(dtype)[..., None]
        return centred_NGK.mul_(scale_NG.to(dtype)[..., None]).reshape(q_NP.shape[0], -1)


def with_rows(matrix: Matrix, change: Callable[[Any], Any]) -> Matrix:
    """`change` of each of its tensors, whose first dimension is that of rows: other rows, stored as they were."""
    if isinstance(matrix, Dense):
        return Dense(change(matrix.weight_OI))
    if isinstance(matrix, Int8Rows):
        return Int8Rows(change(matrix.q_OI), change(matrix.scale_O))
    assert isinstance(matrix, Int4Groups)
    return Int4Groups(change(matrix.q_OP), change(matrix.scale_OG), change(matrix.zero_OG))


def int8_rows(weight_OI: Any) -> Int8Rows:
    """Round to nearest with one scale a row, the row's largest magnitude over 127."""
    w_OI = weight_OI.float()
    # A row of zeros has any scale.
    scale_O = (w_OI.abs().amax(dim=1) / 127).clamp(min=2.0**-126)
    import torch

    return Int8Rows((w_OI / scale_O[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale_O)


def fp8_rows(weight_OI: Any) -> Fp8Rows:
    """To the nearest E4M3 number with one scale a row, which makes the row's largest magnitude E4M3's own."""
    import torch

    w_OI, kind = weight_OI.float(), torch.float8_e4m3fn
    scale_O = (w_OI.abs().amax(dim=1) / torch.finfo(kind).max).clamp(min=2.0**-126)
    return Fp8Rows((w_OI / scale_O[:, None]).to(kind).view(torch.uint8), scale_O)


def int4_groups(q_OI: Any, scale_OG: Any, zero_OG: Any) -> Int4Groups:
    """Pack integers 0 to 15."""
    import torch

    q_OI = q_OI.to(torch.uint8)
    return Int4Groups(q_OI[:, 0::2] | (q_OI[:, 1::2] << 4), scale_OG.contiguous(), zero_OG.to(torch.uint8).contiguous())


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """The parts one below the other; they must be stored alike."""
    import torch

    first = parts[0]
    if isinstance(first, Dense):
        return Dense(torch.cat([p.weight_OI for p in parts if isinstance(p, Dense)]))
    if isinstance(first, Int8Rows):
        rows = [p for p in parts if isinstance(p, Int8Rows)]
        return Int8Rows(torch.cat([p.q_OI for p in rows]), torch.cat([p.scale_O for p in rows]))
    if isinstance(first, Fp8Rows):
        floats = [p for p in parts if isinstance(p, Fp8Rows)]
        return Fp8Rows(torch.cat([p.bits_OI for p in floats]), torch.cat([p.scale_O for p in floats]))
    groups = [p for p in parts if isinstance(p, Int4Groups)]
    assert len(groups) == len(parts), "matrices stored in different ways cannot be stacked"
    return Int4Groups(*(torch.cat([getattr(p, name) for p in groups]) for name in ("q_OP", "scale_OG", "zero_OG")))
