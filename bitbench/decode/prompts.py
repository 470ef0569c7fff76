"""Reads prompts by the plain forward, on a GPU as CUDA graphs: for up to some thousand tokens the host takes longer to
launch the kernels than the GPU to run them.

A graph is for one length. A shorter prompt is filled up at its end: no position sees a later one, so nothing changes
for those that are there.
"""

from collections.abc import Callable, Sequence
from typing import Any

from bitbench.decode.forward import Forward, KVCache, new_cache
from bitbench.decode.graphs import captured

LENGTHS = (64, 128, 256, 512, 1024, 2048)
_MOST_TOKENS = 4096
"""Of a batch: with more the host keeps up."""

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Turns work into something that does it again."""


class Prompts:
    """For batches of `batch_size` prompts. `capture` is the GPU's unless given."""

    def __init__(self, forward: Forward, device: str, batch_size: int = 1, capture: Capture | None = None) -> None:
        self._forward, self._device, self._batch_size = forward, device, batch_size
        if capture is None and device.startswith("cuda"):
            capture = _on_gpu(device)
        self._capture = capture
        self._graphs: dict[int, _Graph] = {}

    def read(self, ids: Sequence[Sequence[int]]) -> tuple[Any, KVCache]:
        """float32 logits [batch, vocab] after the last token, and a cache of at least the prompts' length, which is its
        `length`; both are overwritten by the next call.
        """
        import torch

        count = len(ids[0])
        with torch.inference_mode():
            ids_BS = torch.tensor([list(row) for row in ids], device=self._device)
            length = self._length(count)
            if not length:
                cache = self._new_cache(count)
                return self._forward.logits(ids_BS, cache)[:, -1], cache
            if length not in self._graphs:
                self._graphs[length] = self._captured(length)
            graph = self._graphs[length]
            graph.ids_BS[:, :count] = ids_BS
            graph.last.fill_(count - 1)
            graph.replay()
            graph.cache.length = count
            return graph.logits_BV, graph.cache

    def _length(self, count: int) -> int | None:
        """Of the graph for so many tokens; None where there is none."""
        if self._capture is None:
            return None
        most = min(self._forward.cos_sin.shape[1], _MOST_TOKENS // self._batch_size)
        return next((length for length in LENGTHS if count <= length <= most), None)

    def _new_cache(self, room: int) -> KVCache:
        dtype = self._forward.weights.final_norm.dtype
        return new_cache(self._forward.config, self._batch_size, room, dtype, self._device)

    def _captured(self, length: int) -> "_Graph":
        import torch

        assert self._capture
        ids_BS = torch.zeros(self._batch_size, length, dtype=torch.long, device=self._device)
        last = torch.zeros(1, dtype=torch.long, device=self._device)
        logits_BV = torch.zeros(self._batch_size, self._forward.config.vocab_size, device=self._device)
        graph = _Graph(self._forward, ids_BS, last, logits_BV, self._new_cache(length))
        graph.replay = self._capture(graph.run)
        return graph


class _Graph:
    """Reads prompts of one length, of which the token `last` is the last that means anything."""

    def __init__(self, forward: Forward, ids_BS: Any, last: Any, logits_BV: Any, cache: KVCache) -> None:
        self._forward = forward
        self.ids_BS, self.last, self.logits_BV, self.cache = ids_BS, last, logits_BV, cache
        self.replay: Callable[[], None] = self.run

    def run(self) -> None:
        """Launch it all."""
        self.cache.length = 0
        x_BSH = self._forward.hidden(self.ids_BS, self.cache)
        self.logits_BV.copy_(self._forward.head(x_BSH.index_select(1, self.last))[:, 0])


def _on_gpu(device: str) -> Capture:
    import torch

    pool = torch.cuda.graph_pool_handle()
    return lambda run: captured(run, device, pool)
