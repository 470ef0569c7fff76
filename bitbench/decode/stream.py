"""Weights in the order in which a persistent kernel reads them: for each block one stream of bytes.

A matrix is dealt out by rows: block b of n has rows [R b // n, R (b + 1) // n). What a block reads in a step follows in
its stream without gaps, layer by layer: q, k, v | o | gate, up | down, and after the last layer lm_head.
kernels/step.cu reads it so.

A row is, in 16 bits, its weights; in 8 bits, bytes q + 128, then a float32 scale in 16 bytes; in 4 bits, words of eight
neighbouring inputs whose nibbles lie in the order 0 2 4 6 1 3 5 7 from the lowest, then for each group its scale and
zero point as float16, padded to 16 bytes. The order lets one mask take two neighbours into the halves of a word.
Shapes: R rows, I inputs, G groups, W words of eight inputs, Z bytes of a row.
"""

from typing import Any

from bitbench.decode.config import DecoderConfig
from bitbench.decode.matrix import Dense, Int4Groups, Int8Rows, Matrix
from bitbench.decode.weights import Weights

GRANULE = 8192
"""Streams are copied in pieces of this size, so they are padded to a multiple of it."""
_ALIGN = 16
_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of the eight inputs of a word lies in each nibble, from the lowest."""


def rows_as_bytes(matrix: Matrix) -> Any:
    """Every row as it lies in a stream: uint8 [R, Z]."""
    import torch

    if isinstance(matrix, Dense):
        return matrix.weight_OI.contiguous().view(torch.uint8)
    if isinstance(matrix, Int8Rows):
        q_RI = (matrix.q_OI.to(torch.int16) + 128).to(torch.uint8)
        return torch.cat([q_RI, _padded(matrix.scale_O.float()[:, None].view(torch.uint8))], dim=1)
    assert isinstance(matrix, Int4Groups)
    scale_zero_RG2 = torch.stack((matrix.scale_OG.half(), matrix.zero_OG.half()), dim=-1)
    ends = scale_zero_RG2.reshape(matrix.shape[0], -1).contiguous().view(torch.uint8)
    return torch.cat([_words(matrix), _padded(ends)], dim=1)


def _words(matrix: Int4Groups) -> Any:
    """Eight inputs a word, uint8 [R, I / 2]."""
    import torch

    q_RI = torch.stack((matrix.q_OP & 15, matrix.q_OP >> 4), dim=-1).reshape(matrix.shape[0], -1)
    q_RW8 = q_RI.reshape(matrix.shape[0], -1, 8)[..., list(_NIBBLES)]
    return (q_RW8[..., 0::2] | (q_RW8[..., 1::2] << 4)).reshape(matrix.shape[0], -1)


def _padded(bytes_RZ: Any) -> Any:
    import torch

    return torch.nn.functional.pad(bytes_RZ, (0, -bytes_RZ.shape[1] % _ALIGN))


def row_order(config: DecoderConfig) -> dict[str, list[int]]:
    """The order of the rows of the two matrices whose rows come in pairs.

    q, k, v: rows d and d + D / 2 of a head, which rotary positions turn against each other. gate_up: gate and up.
    """
    turn, heads = config.head_dim // 2, config.num_heads + 2 * config.num_kv_heads
    qkv = [h * config.head_dim + d + part for h in range(heads) for d in range(turn) for part in (0, turn)]
    gate_up = [i + part for i in range(config.intermediate_size) for part in (0, config.intermediate_size)]
    return {"qkv": qkv, "gate_up": gate_up}


def streams(weights: Weights, config: DecoderConfig, num_blocks: int) -> tuple[Any, Any]:
    """The streams of all blocks, uint8 [blocks, bytes], and how many granules each has, int32 [blocks].

    A block with fewer rows has a shorter stream: a producer that went on would wait for readers that are done.
    """
    import torch

    order = {name: torch.tensor(rows) for name, rows in row_order(config).items()}
    parts: list[list[Any]] = [[] for _ in range(num_blocks)]

    def deal(matrix: Matrix, name: str = "") -> None:
        rows_RZ = rows_as_bytes(matrix)
        pair = 2 if name else 1
        if name:
            rows_RZ = rows_RZ[order[name].to(rows_RZ.device)]
        groups = rows_RZ.shape[0] // pair
        for block in range(num_blocks):
            first, last = groups * block // num_blocks, groups * (block + 1) // num_blocks
            parts[block].append(rows_RZ[first * pair : last * pair].flatten())

    for layer in weights.layers:
        deal(layer.qkv, "qkv")
        deal(layer.o)
        deal(layer.gate_up, "gate_up")
        deal(layer.down)
    deal(weights.head)
    sizes = [-(-sum(part.numel() for part in block) // GRANULE) for block in parts]
    found = torch.zeros(num_blocks, max(sizes) * GRANULE, dtype=torch.uint8, device=weights.final_norm.device)
    for block, pieces in enumerate(parts):
        joined = torch.cat(pieces)
        found[block, : joined.numel()] = joined
    return found, torch.tensor(sizes, dtype=torch.int32, device=found.device)
