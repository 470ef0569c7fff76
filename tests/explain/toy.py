"""Real work on a real device, made so that one known thing sets its speed."""

import time
from collections.abc import Callable

import torch
from torch import nn

from bitbench.engines.annotate import annotated
from bitbench.engines.base import Matrices
from bitbench.engines.capture import capture
from bitbench.engines.weights import weights_bytes


class Toy(nn.Module):
    """A stack of square layers; `between` runs on the host after each layer, given the numbers so far."""

    def __init__(
        self,
        width: int,
        num_layers: int,
        device: str,
        layer: Callable[..., nn.Module] = nn.Linear,
        between: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        dtype = torch.float16 if device != "cpu" else torch.float32
        self.layers = nn.ModuleList(
            layer(width, width, bias=False, device=device, dtype=dtype) for _ in range(num_layers)
        )
        self.head = nn.Linear(width, 64, bias=False, device=device, dtype=dtype)
        self.between = between
        self.width, self.device, self.dtype = width, device, dtype

    def forward(self, x_SH: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x_SH = layer(x_SH)
            if self.between is not None:
                self.between(x_SH)
        return self.head(x_SH[-1:]).argmax(dim=-1)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def get_input_embeddings(self) -> nn.Module | None:
        return None


class Int8Linear(nn.Module):
    """Weights in 8 bits, widened to 16 by a kernel of its own before each product: three times the bytes are moved."""

    def __init__(self, width: int, out: int, bias: bool, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = width, out
        self.weight = nn.Parameter(torch.ones(out, width, device=device, dtype=torch.int8), requires_grad=False)
        self.dtype = dtype

    def forward(self, x_SH: torch.Tensor) -> torch.Tensor:
        return x_SH @ self.weight.to(self.dtype).T


class ToyModel:
    """What the profile asks of a loaded model. A step reads `batch` rows, a prefill `prompt_len` of them."""

    def __init__(self, toy: Toy, batch: int = 1, captured: bool = False) -> None:
        self.toy, self.batch, self.captured = toy, batch, captured
        self.x_BH = torch.randn(batch, toy.width, device=toy.device).to(toy.dtype)
        with torch.inference_mode():
            self._step = capture(self.step, toy.device) if captured else self.step
        self._replayed = self._step

    def step(self) -> None:
        with torch.inference_mode():
            self.toy(self.x_BH)

    def generate(self, ids, output_len, on_token):
        with torch.inference_mode():
            self.toy(torch.zeros(len(ids[0]), self.toy.width, device=self.toy.device, dtype=self.toy.dtype))
        for _ in range(output_len - 1):
            self._step()

    def tpot_s(self, steps: int = 20) -> float:
        """Seconds of a step, by the host, the best of three."""
        times = []
        for _ in range(3):
            self.synchronize()
            began = time.perf_counter()
            for _ in range(steps):
                self._step()
            self.synchronize()
            times.append((time.perf_counter() - began) / steps)
        return min(times)

    def synchronize(self) -> None:
        if self.toy.device != "cpu":
            torch.cuda.synchronize(self.toy.device)

    def annotated(self):
        self._step = self.step
        return _Restoring(self, annotated(self.toy))

    def matrices(self) -> Matrices:
        layers = sum(m.in_features * m.out_features for m in self.toy.layers)
        return Matrices(layers, self.toy.head.weight.numel(), self.toy.head.weight.nbytes)

    def weights_bytes(self) -> int:
        return weights_bytes(self.toy)

    def unread_embedding_bytes(self) -> int:
        return 0

    def kv_bytes_per_token(self) -> int:
        return 0


class _Restoring:
    def __init__(self, model: ToyModel, inner) -> None:
        self.model, self.inner = model, inner

    def __enter__(self):
        return self.inner.__enter__()

    def __exit__(self, *error):
        self.model._step = self.model._replayed
        return self.inner.__exit__(*error)
