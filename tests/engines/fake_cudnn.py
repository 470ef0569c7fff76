"""cuDNN's attention where there is none: torch's answers about it are made up, and other kernels compute what it would.

Only what goes to torch is tested so; that cuDNN gets it right is for tests on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend


class FakeCudnn:
    """What torch says of cuDNN, what it was asked, and each call of its attention: by cuDNN or not, and with what."""

    def __init__(self, can_use: bool = True, capability: tuple[int, int] = (9, 0), version: int | None = 91900) -> None:
        self.can_use, self.capability, self.version = can_use, capability, version
        self.asked: list[Any] = []
        self.by_cudnn: list[dict[str, Any]] = []
        self.by_others: list[dict[str, Any]] = []
        self._open = False
        self._attend = torch.nn.functional.scaled_dot_product_attention

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> "FakeCudnn":
        monkeypatch.setattr(torch.backends.cuda, "can_use_cudnn_attention", self._can_use_cudnn_attention)
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: self.version)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: self.capability)
        monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", self._sdpa_kernel)
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", self._recorded)
        return self

    def _can_use_cudnn_attention(self, params: Any) -> bool:
        self.asked.append(params)
        return self.can_use

    @contextmanager
    def _sdpa_kernel(self, backend: Any) -> Iterator[None]:
        assert backend == SDPBackend.CUDNN_ATTENTION
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def _recorded(self, query: Any, key: Any, value: Any, **others: Any) -> Any:
        calls = self.by_cudnn if self._open else self.by_others
        calls.append({"query": query, "key": key, "value": value, **others})
        return self._attend(query, key, value, **others)
