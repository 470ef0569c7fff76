"""Modules of INT8 weights with a scale a row, put in the place of transformers' own after loading.

Imported only where a method asks for it: it needs torch. On a CPU a few rows of bfloat16 are multiplied by ATen's
weight-only kernel, which reads the 8-bit numbers; all else is dequantized first. Shapes: N rows, O out, I in.
"""

from typing import Any

import torch

from bitbench.methods.int8_rows import round_rows

# Measured on one core, 49152 x 576: the kernel takes 3.2 ms for one row and 1.4 ms for each more, dequantizing 46 ms
# and then 0.3 ms a row; at this many it is still the faster.
_FEW_ROWS = 16


class Int8RowsLinear(torch.nn.Module):  # type: ignore[misc]
    """y = x W^T, W = q x scale."""

    def __init__(self, q_OI: Any, scale_O: Any, bias: Any | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = q_OI.shape
        self.register_buffer("q_OI", q_OI)
        self.register_buffer("scale_O", scale_O)
        self.bias = bias

    @property
    def weight(self) -> Any:
        """The 8-bit numbers, for those who ask how large a table is and whether two are one."""
        return self.q_OI

    def forward(self, x: Any) -> Any:
        """[..., I] to [..., O], in x's type."""
        x_NI = x.reshape(-1, self.in_features)
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and x_NI.shape[0] <= _FEW_ROWS:
            y_NO = torch._weight_int8pack_mm(x_NI.contiguous(), self.q_OI, self.scale_O.to(x.dtype))
        else:
            y_NO = x_NI @ (self.q_OI.to(x.dtype) * self.scale_O.to(x.dtype)[:, None]).T
        y_NO = y_NO if self.bias is None else y_NO + self.bias
        return y_NO.reshape(*x.shape[:-1], self.out_features)


class Int8RowsEmbedding(torch.nn.Module):  # type: ignore[misc]
    """Looks rows up in the same numbers; `dtype` is that of the rows found, since ids have none to go by."""

    def __init__(self, q_OI: Any, scale_O: Any, dtype: Any) -> None:
        super().__init__()
        self.register_buffer("q_OI", q_OI)
        self.register_buffer("scale_O", scale_O)
        self.dtype = dtype

    @property
    def weight(self) -> Any:
        """As of Int8RowsLinear."""
        return self.q_OI

    def forward(self, ids: Any) -> Any:
        """[...] to [..., I]."""
        return self.q_OI[ids].to(self.dtype) * self.scale_O[ids].to(self.dtype)[..., None]


def store_in_rows(model: Any, layers: bool) -> None:
    """Store lm_head, and the embedding where it is the same table, in INT8 by row; with `layers` every projection too.

    One module at a time, so that no more than one matrix lives twice.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head.weight.data_ptr() == embedding.weight.data_ptr()
    if layers:
        for name, module in list(model.named_modules()):
            if isinstance(module, torch.nn.Linear) and module is not head:
                parent = model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], _in_rows(module, model.dtype))
    stored = _in_rows(head, model.dtype)
    model.set_output_embeddings(stored)
    if tied:
        model.set_input_embeddings(Int8RowsEmbedding(stored.q_OI, stored.scale_O, model.dtype))


def _in_rows(module: Any, dtype: Any) -> Int8RowsLinear:
    with torch.no_grad():
        return Int8RowsLinear(*round_rows(module.weight, scale_dtype(dtype)), module.bias)


def scale_dtype(dtype: Any) -> Any:
    """ATen's kernel wants scales of the activations' type; elsewhere they cost nothing."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
