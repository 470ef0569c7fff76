"""A few decode steps of a small random model, for compute-sanitizer to watch the step kernel.

All memory is written by kernels and no prompt is read, so that nothing but the step kernel can be at fault: at a short
context, where a block attends for itself, and at a long one, which all blocks share.

    compute-sanitizer --tool memcheck python scripts/sanitize_step.py
    compute-sanitizer --tool racecheck --kernel-name kns=decode_steps python scripts/sanitize_step.py
    compute-sanitizer --tool initcheck --check-api-memory-access no python scripts/sanitize_step.py
    compute-sanitizer --tool racecheck python scripts/sanitize_step.py --gpu 8.0:108:163 --every-lane
"""

import argparse
import itertools
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import another_gpu
import torch
from changed_kernel import changed, replaced

from bitbench.decode import rope
from bitbench.decode.config import DecoderConfig, RopeConfig
from bitbench.decode.forward import Forward
from bitbench.decode.matrix import Dense, Int4Groups, Matrix, int8_rows
from bitbench.decode.step_kernel import on_cuda
from bitbench.decode.weights import LayerWeights, Weights

METHODS = ("fp16", "int8-wo", "awq-int4")
GROUP = 64
CONFIG = DecoderConfig(
    model_type="qwen2",
    hidden_size=256,
    intermediate_size=2304,  # three tiles of gate and up for some blocks, so that one vector is in planes
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=1000,
    context_len=4096,
    norm_eps=1e-6,
    rope=RopeConfig(theta=10_000.0),
    tied_embeddings=True,
    qkv_bias=True,
    qk_norm=False,
)


def random(*shape: int, scale: float, device: str) -> Any:
    """float16, normal."""
    return torch.empty(shape, dtype=torch.float16, device=device).normal_(0, scale)


def matrix(method: str, rows: int, columns: int, device: str) -> Matrix:
    """As the method stores it."""
    if method != "awq-int4":
        weight = random(rows, columns, scale=0.05, device=device)
        return int8_rows(weight) if method == "int8-wo" else Dense(weight)
    packed, groups = (rows, columns // 2), (rows, columns // GROUP)
    q, zero = (torch.empty(shape, dtype=torch.uint8, device=device) for shape in (packed, groups))
    scale = random(*groups, scale=0.002, device=device).abs_().add_(0.004)
    return Int4Groups(q.random_(0, 256), scale, zero.random_(4, 12))


def forward(method: str, device: str) -> Forward:
    """A random model."""
    c = CONFIG

    def vector(size: int, mean: float) -> Any:
        return random(size, scale=0.1, device=device).add_(mean)

    qkv_size = c.q_size + 2 * c.kv_size
    layers = tuple(
        LayerWeights(
            input_norm=vector(c.hidden_size, 1.0),
            qkv=matrix(method, qkv_size, c.hidden_size, device),
            qkv_bias=vector(qkv_size, 0.0),
            q_norm=None,
            k_norm=None,
            o=matrix(method, c.hidden_size, c.q_size, device),
            post_norm=vector(c.hidden_size, 1.0),
            gate_up=matrix(method, 2 * c.intermediate_size, c.hidden_size, device),
            down=matrix(method, c.hidden_size, c.intermediate_size, device),
        )
        for _ in range(c.num_layers)
    )
    head = matrix("int8-wo" if method == "int8-wo" else "fp16", c.vocab_size, c.hidden_size, device)
    weights = Weights(embedding=head, layers=layers, final_norm=vector(c.hidden_size, 1.0), head=head)
    config = replace(c, group_size=GROUP if method == "awq-int4" else 0)
    return Forward(config, weights, rope.table(c, c.context_len, device))


# What one lane tells or waits for on behalf of its warp, which meets by __syncwarp, is done by every lane: racecheck
# does not count __syncwarp (racecheck_copies.cu), and where copies are a warp's own it sees them.
_RELEASE = "if ((int)(target - n) > 0) mbarrier_arrive(empty + n % NUM_GRANULES);"
_WAIT = "if ((int)(target - n) > 0) mbarrier_wait(full + n % NUM_GRANULES, n / NUM_GRANULES & 1);"
_EVERY_LANE = {
    _RELEASE: "for (u32 k = passed; (int)(target - k) > 0; ++k) mbarrier_arrive(empty + k % NUM_GRANULES);",
    _WAIT: "for (u32 k = waited; (int)(target - k) > 0; ++k)\n"
    "      mbarrier_wait(full + k % NUM_GRANULES, k / NUM_GRANULES & 1);",
    "mbarrier_init(m.empty + i, WARPS);": "mbarrier_init(m.empty + i, THREADS);",
}


def by_every_lane(text: str) -> str:
    """The kernel when every lane tells and waits for itself."""
    for what, by in _EVERY_LANE.items():
        text = replaced(text, what, by)
    return text


def take_steps(arguments: argparse.Namespace) -> None:
    """Of each model."""
    device = arguments.device
    for gpu, method, batch in itertools.product(
        arguments.gpu or [None], arguments.method or METHODS, arguments.batch or (1, 8)
    ):
        kernel = on_cuda(forward(method, device), device, CONFIG.context_len, batch_size=batch, places=0, gpu=gpu)
        buffers = kernel._buffers
        for context in arguments.context or (40, 2000):
            buffers["keys"].normal_()
            buffers["values"].normal_()
            buffers["token"].copy_(torch.arange(7, 7 + batch))
            buffers["position"].fill_(context)
            kernel.advance(arguments.steps, keep_logits=True)
            logits = kernel.all_logits()
            assert bool(logits.isfinite().all())
            tokens = kernel.all_tokens(context + 1, arguments.steps)
            print(method, batch, context, tokens[-1], float(logits.square().mean().sqrt()))


def main() -> None:
    """A line for each method and context."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--context", type=int, action="append", help="positions before the first step")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--every-lane", action="store_true", help="as racecheck can see: see the source")
    another_gpu.add_to(parser)
    arguments = parser.parse_args()
    with changed(by_every_lane) if arguments.every_lane else nullcontext():
        take_steps(arguments)


if __name__ == "__main__":
    main()
