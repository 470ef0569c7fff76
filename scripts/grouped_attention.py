"""Attention of one new token over grouped keys and values with a mask, as in a step over a static cache, by four ways.

Each is captured in a CUDA graph of 24 layers, which have keys and values of their own. Prints and, with --out, appends
one JSON line a shape. For each way: microseconds of a graph, mean of 20; the relative error of one layer's output,
against the same in float32; and its kernels, by the first 70 characters of their names. The backend is torch's choice.

    python scripts/grouped_attention.py --out FILE

Shapes: B batch, H heads, K heads of keys and values, G = H / K heads in a group, L cache length, D of a head, N layers.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_time import milliseconds
from lines import append
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from bitbench.engines.capture import capture
from bitbench.results.machine import collect

DEVICE = "cuda:0"
LAYERS = 24
REPLAYS = 20
HIDDEN = 29  # places at the end of the cache that are still empty
HEADS = ((14, 2, 64), (28, 4, 128))  # H, K and D of Qwen2.5-0.5B and of 7B
LENGTHS = {1: (192, 4032, 32064), 8: (192, 4032)}


def repeat(q_BH1D: Any, k_BKLD: Any, v_BKLD: Any, mask_B11L: Any) -> Any:
    """As transformers before 5.23: keys and values copied for each head of a group."""
    G = q_BH1D.shape[1] // k_BKLD.shape[1]
    k_BHLD, v_BHLD = (x[:, :, None].expand(-1, -1, G, -1, -1).flatten(1, 2) for x in (k_BKLD, v_BKLD))
    return scaled_dot_product_attention(q_BH1D, k_BHLD, v_BHLD, attn_mask=mask_B11L)


def packed(q_BH1D: Any, k_BKLD: Any, v_BKLD: Any, mask_B11L: Any) -> Any:
    """As transformers since then: a group's heads are so many queries of one head."""
    B, H, _, D = q_BH1D.shape
    K = k_BKLD.shape[1]
    mask_B1GL = mask_B11L.expand(-1, -1, H // K, -1)
    out_BKGD = scaled_dot_product_attention(q_BH1D.reshape(B, K, H // K, D), k_BKLD, v_BKLD, attn_mask=mask_B1GL)
    return out_BKGD.reshape(B, H, 1, D)


def gqa(q_BH1D: Any, k_BKLD: Any, v_BKLD: Any, mask_B11L: Any) -> Any:
    """As they are, and torch is told that they are grouped."""
    return scaled_dot_product_attention(q_BH1D, k_BKLD, v_BKLD, attn_mask=mask_B11L, enable_gqa=True)


def stride0(q_BH1D: Any, k_BKLD: Any, v_BKLD: Any, mask_B11L: Any) -> Any:
    """Groups are a batch, and the heads of one read the same keys and values by a stride of 0. One mask for all."""
    B, H, _, D = q_BH1D.shape
    K, L = k_BKLD.shape[1:3]
    k, v = (x.reshape(B * K, 1, L, D).expand(-1, H // K, -1, -1) for x in (k_BKLD, v_BKLD))
    mask = mask_B11L[:1].expand(B * K, -1, -1, -1)
    out = scaled_dot_product_attention(q_BH1D.reshape(B * K, H // K, 1, D), k, v, attn_mask=mask)
    return out.reshape(B, H, 1, D)


WAYS = (repeat, packed, gqa, stride0)


def tensors(heads: tuple[int, int, int], B: int, L: int, dtype: Any, device: str) -> tuple[Any, Any, Any, Any]:
    """Random queries laid out as a projection leaves them, keys and values of all layers, and a static cache's mask."""
    H, K, D = heads
    q_BH1D = torch.randn(B, 1, H, D, device=device, dtype=dtype).transpose(1, 2)
    k_NBKLD, v_NBKLD = (torch.randn(LAYERS, B, K, L, D, device=device, dtype=dtype) for _ in range(2))
    mask_L = torch.where(torch.arange(L, device=device) < L - HIDDEN, 0.0, -float("inf")).to(dtype)
    return q_BH1D, k_NBKLD, v_NBKLD, mask_L.expand(B, 1, 1, L)


def relative_error(way: Callable[..., Any], q_BH1D: Any, k_BKLD: Any, v_BKLD: Any, mask_B11L: Any) -> float:
    """RMS, against the same numbers in float32."""
    exact = repeat(*(x.float() for x in (q_BH1D, k_BKLD, v_BKLD, mask_B11L)))
    return float((way(q_BH1D, k_BKLD, v_BKLD, mask_B11L).float() - exact).norm() / exact.norm())


def microseconds(way: Callable[..., Any], q_BH1D: Any, k_NBKLD: Any, v_NBKLD: Any, mask_B11L: Any) -> float:
    """Of all layers, captured, by CUDA events around the replays."""

    def step() -> None:
        for k_BKLD, v_BKLD in zip(k_NBKLD, v_NBKLD, strict=True):
            way(q_BH1D, k_BKLD, v_BKLD, mask_B11L)

    replay = capture(step, DEVICE)
    for _ in range(3):
        replay()

    def replays() -> None:
        for _ in range(REPLAYS):
            replay()

    return milliseconds(replays) / REPLAYS * 1e3


def kernels(way: Callable[..., Any], q_BH1D: Any, k_BKLD: Any, v_BKLD: Any, mask_B11L: Any) -> list[str]:
    """What one layer runs on the device."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        way(q_BH1D, k_BKLD, v_BKLD, mask_B11L)
        torch.cuda.synchronize()
    events = recorded.events() or []
    return sorted({event.name[:70] for event in events if event.device_type == torch.autograd.DeviceType.CUDA})


def main() -> None:
    """All shapes by all ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    environment = collect(DEVICE)
    for H, K, D in HEADS:
        for B, L in ((B, L) for B, lengths in LENGTHS.items() for L in lengths):
            q_BH1D, k_NBKLD, v_NBKLD, mask_B11L = tensors((H, K, D), B, L, torch.float16, DEVICE)
            line: dict[str, Any] = {"heads": H, "kv_heads": K, "head_dim": D, "batch": B, "cache_len": L}
            line |= {"layers": LAYERS, "ways": {}}
            for way in WAYS:
                one = q_BH1D, k_NBKLD[0], v_NBKLD[0], mask_B11L
                found = {
                    "us": round(microseconds(way, q_BH1D, k_NBKLD, v_NBKLD, mask_B11L), 1),
                    "error": float(f"{relative_error(way, *one):.1e}"),
                    "kernels": kernels(way, *one),
                }
                line["ways"][way.__name__] = found
                shape = f"{H:2} heads in {K} groups, batch {B}, {L:5} places, {way.__name__:7}"
                print(f"{shape} {found['us']:8.1f} us, error {found['error']:.1e}, {found['kernels']}", flush=True)
            append(line, environment, arguments.out)


if __name__ == "__main__":
    main()
