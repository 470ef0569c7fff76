"""The model in plain PyTorch: what every fast kernel is checked against, and what runs where there is no GPU.

Shapes: B sequences, S new tokens, L positions in the cache, H hidden size, N query heads, K key heads, D head size.
"""

from dataclasses import dataclass
from typing import Any

from bitbench.decode import rope
from bitbench.decode.config import DecoderConfig
from bitbench.decode.matrix import Matrix
from bitbench.decode.weights import Weights


@dataclass(slots=True)
class KVCache:
    """Keys and values of all layers, [layers, B, L, K, D] each, of which the first `length` positions are filled."""

    keys: Any
    values: Any
    length: int = 0

    @property
    def room(self) -> int:
        """Positions it has."""
        return int(self.keys.shape[2])


def new_cache(config: DecoderConfig, batch_size: int, room: int, dtype: Any, device: str) -> KVCache:
    """An empty cache."""
    import torch

    shape = (config.num_layers, batch_size, room, config.num_kv_heads, config.head_dim)
    return KVCache(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))


@dataclass(slots=True)
class Forward:
    """Runs tokens through the model, in the type of its norms. `cos_sin` is float32 [2, context, D / 2]."""

    config: DecoderConfig
    weights: Weights
    cos_sin: Any

    def logits(self, ids_BS: Any, cache: KVCache, num_last: int = 1) -> Any:
        """Append the tokens to the cache; float32 logits [B, num_last, vocab] of the last of them.

        The caller sees to it that the cache has room.
        """
        return self.head(self.hidden(ids_BS, cache)[:, -num_last:])

    def head(self, x_BSH: Any) -> Any:
        """float32 logits [B, S, vocab] of what `hidden` gave."""
        return multiply(self._norm(x_BSH, self.weights.final_norm), self.weights.head).float()

    def hidden(self, ids_BS: Any, cache: KVCache) -> Any:
        """Append the tokens to the cache; what the last layer makes of each, [B, S, H]."""
        import torch

        w, start = self.weights, cache.length
        end = start + ids_BS.shape[1]
        cos_sin = self.cos_sin[:, start:end]
        x_BSH = w.embedding.rows(ids_BS.flatten()).reshape(*ids_BS.shape, -1).to(w.final_norm.dtype)
        for number, layer in enumerate(w.layers):
            normed_BSH = self._norm(x_BSH, layer.input_norm)
            x_BSH = x_BSH + self._attention(number, normed_BSH, cache, cos_sin)
            gate_BSF, up_BSF = multiply(self._norm(x_BSH, layer.post_norm), layer.gate_up).chunk(2, dim=-1)
            x_BSH = x_BSH + multiply(torch.nn.functional.silu(gate_BSF) * up_BSF, layer.down)
        cache.length = end
        return x_BSH

    def _norm(self, x: Any, weight: Any) -> Any:
        """RMSNorm over the last axis in float32 (arXiv 1910.07467), rounded before the weight as transformers does."""
        x32 = x.float()
        scaled = x32 * (x32.square().mean(-1, keepdim=True) + self.config.norm_eps).rsqrt()
        return weight * scaled.to(x.dtype)

    def _attention(self, number: int, x_BSH: Any, cache: KVCache, cos_sin: Any) -> Any:
        import torch

        c, layer, (batch, tokens, _) = self.config, self.weights.layers[number], x_BSH.shape
        qkv = multiply(x_BSH, layer.qkv)
        if layer.qkv_bias is not None:
            qkv = qkv + layer.qkv_bias
        q_BSND, k_BSKD, v_BSKD = (
            part.reshape(batch, tokens, -1, c.head_dim) for part in qkv.split([c.q_size, c.kv_size, c.kv_size], dim=-1)
        )
        if layer.q_norm is not None:
            q_BSND, k_BSKD = self._norm(q_BSND, layer.q_norm), self._norm(k_BSKD, layer.k_norm)
        end = cache.length + tokens
        cache.keys[number, :, cache.length : end] = rope.rotate(k_BSKD, *cos_sin)
        cache.values[number, :, cache.length : end] = v_BSKD
        y_BNSD = torch.nn.functional.scaled_dot_product_attention(
            rope.rotate(q_BSND, *cos_sin).transpose(1, 2),
            cache.keys[number, :, :end].transpose(1, 2),
            cache.values[number, :, :end].transpose(1, 2),
            # Without a mask SDPA takes its fast kernels, and no [S, L] matrix is made.
            attn_mask=_causal(tokens, end, x_BSH.device) if tokens > 1 and cache.length else None,
            is_causal=tokens > 1 and not cache.length,
            enable_gqa=c.num_heads != c.num_kv_heads,
        )
        return multiply(y_BNSD.transpose(1, 2).reshape(batch, tokens, -1), layer.o)


def _causal(tokens: int, end: int, device: Any) -> Any:
    """Each of the last `tokens` positions sees itself and what came before: boolean [S, L]."""
    import torch

    return torch.ones(tokens, end, dtype=torch.bool, device=device).tril(end - tokens)


def multiply(x: Any, matrix: Matrix) -> Any:
    """x [..., I] times the matrix, [..., O], in x's type."""
    import torch

    found = [torch.nn.functional.linear(x, piece) for piece in matrix.in_pieces(x.dtype)]
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)
