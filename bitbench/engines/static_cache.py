"""transformers' static cache with one count of positions for all layers, on the device."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from bitbench.facts.errors import Unsupported


@dataclass(slots=True)
class Places:
    """Where in the cache the next keys and values go, int64 [new tokens], the same for all layers."""

    next: Any = None


def static_cache(config: Any, cache_len: int, places: Places) -> Any:
    """A StaticCache for so many tokens whose layers write where `places` says. Raises Unsupported.

    transformers' own layers each count the positions by three kernels of their own, 72 a step for 24 layers: work that
    is neither the model's nor the method's. A sliding-window layer counts them on the host too, and a captured step
    would repeat the host's first answer. Where the window is no shorter than the cache, such a layer keeps everything,
    and a plain one does the same.
    """
    from transformers.cache_utils import StaticCache, StaticLayer, StaticSlidingWindowLayer

    cache = StaticCache(config=config, max_cache_len=cache_len)
    for index, layer in enumerate(cache.layers):
        whole = type(layer) is StaticSlidingWindowLayer and layer.max_cache_len == cache_len
        if not whole and type(layer) is not StaticLayer:
            raise Unsupported(
                f"the model's cache has layers ({type(layer).__name__}) that count positions on the host, "
                "so a step cannot be captured once and repeated"
            )
        cache.layers[index] = plain = StaticLayer(max_cache_len=cache_len)
        plain.update = partial(_update, plain, places)
    return cache


def _update(layer: Any, places: Places, new_keys: Any, new_values: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Writes [B, KV heads, new tokens, D]; returns all keys and values, [B, KV heads, cache_len, D].

    The layer's own count stays at 0: prompts are read from the beginning, and a step brings its position and its mask.
    """
    if not layer.is_initialized:
        layer.lazy_initialization(new_keys, new_values)
    layer.keys.index_copy_(2, places.next, new_keys)
    layer.values.index_copy_(2, places.next, new_values)
    return layer.keys, layer.values
