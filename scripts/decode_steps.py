"""The step kernel on a GPU: is it right, how fast is it, and where does a step's time go?

For each method: relative RMS error of the logits over teacher-forced positions, against the same stored numbers in
float32, beside that of the plain decoder in 16 bit; the time of a step; and, with --stamps, the mean cycles between the
places of a layer, by what a block has to do there. Appends one JSON line a method with --out.

    python scripts/decode_steps.py shape:qwen2.5-0.5b --method fp16 --method awq-int4
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import another_gpu
import torch
from lines import append

from bitbench.decode import decoder as decoders
from bitbench.decode import step_source
from bitbench.decode.hardware import Hardware
from bitbench.decode.step_kernel import StepKernel, on_cuda
from bitbench.decode.steps import Steps
from bitbench.facts.messages import PrepareTask
from bitbench.facts.models import parse_model
from bitbench.facts.workloads import parse_workload
from bitbench.methods.checkpoint import prepare
from bitbench.results.environment import Environment
from bitbench.results.machine import collect

STORED = {"fp16": "fp16", "bf16": "bf16", "int8-wo": "fp16", "awq-int4": "awq-int4", "awq-int4-head8": "awq-int4"}
DEVICE = "cuda:0"
PRODUCTS = ("qkv", "o", "gate_up", "down", "head")
PLACES = ("received", "vector", "weights", "operand", "products", "released", "met", "sent")  # each from the one before


@torch.inference_mode()
def errors(kernel: Steps, decoder: decoders.Decoder, num_positions: int) -> dict[str, float]:
    """Relative RMS over vocabulary and positions: of the kernel's steps, and of the plain decoder at once."""
    ids = parse_workload(f"p{40 + num_positions}-n2").token_ids(0, decoder.config.vocab_size)[0]
    exact = decoder.in_float32().logits(ids[:-1], num_positions)
    plain = decoder.logits(ids[:-1], num_positions)
    kernel.start(ids[:40])
    rows = []
    for token in ids[40:-1]:
        kernel.force(token)
        kernel.logits().fill_(float("nan"))
        kernel.advance(1, keep_logits=True)
        rows.append(kernel.logits().clone())
    stepped, exact, plain = torch.stack(rows), exact[1:], plain[1:]
    scale = exact.square().mean().sqrt()
    return {
        "step_error": float((stepped - exact).square().mean().sqrt() / scale),
        "plain_error": float((plain - exact).square().mean().sqrt() / scale),
        "same_top": float((stepped.argmax(-1) == exact.argmax(-1)).float().mean()),
    }


def timed(kernel: Steps, vocab_size: int, prompt_len: int, output_len: int, repeats: int) -> dict[str, Any]:
    """Microseconds of a step: the median by the device's clock, the first of a launch, and by the host around whole
    generations.
    """
    workload = parse_workload(f"p{prompt_len}-n{output_len}")
    host, device, first, tokens = [], [], [], []
    for repeat in range(repeats):
        kernel.start(workload.token_ids(repeat % 3, vocab_size)[0])
        torch.cuda.synchronize()
        began = time.perf_counter()
        kernel.advance(output_len - 1)
        torch.cuda.synchronize()
        host.append((time.perf_counter() - began) / (output_len - 1) * 1e6)
        times = kernel.step_times_s()
        device.append(statistics.median(times) * 1e6)
        first.append(times[0] * 1e6)
        tokens.append(kernel.tokens(prompt_len, output_len))
    same = all(a == tokens[i % 3] for i, a in enumerate(tokens))
    return {
        "host_us": [round(v, 2) for v in host],
        "device_us": [round(v, 2) for v in device],
        "first_us": [round(v, 2) for v in first],
        "tokens_per_s": round(kernel.batch_size * 1e6 / statistics.median(host), 1),
        "repeats_equal": same,
    }


def where(kernel: StepKernel) -> dict[str, dict[str, float]]:
    """Mean cycles between the places of each product, over the blocks that have tiles of it and all layers but the
    first and the last; `received` begins where the product before ended, and `last_received` is that of the block
    that waits least, since the others wait for it.
    """
    stamps = kernel.stamps().long().cpu() & 0xFFFFFFFF
    counts = kernel._buffers["shares"].cpu()[:, 5:10]
    found: dict[str, dict[str, float]] = {}
    for number, name in enumerate(PRODUCTS):
        rows = stamps[counts[:, number] > 0]
        rows = rows[:, -1:, number] if name == "head" else rows[:, 1:-2, number]
        steps = rows.diff(dim=2)[..., : len(PLACES)] % 2**32
        found[name] = {p: round(float(v)) for p, v in zip(PLACES, steps.float().mean(dim=(0, 1)), strict=True)}
        found[name]["last_received"] = round(float(steps[..., 0].amin(dim=0).float().mean()))
    multiplying = stamps[counts[:, 4] > 0]
    layers = multiplying[:, 1:-1, 0, 0].diff(dim=1) % 2**32
    attention = (multiplying[:, 1:-2, 1, 0] - multiplying[:, 1:-2, 0, 8]) % 2**32
    found["attention"] = {"mean": round(float(attention.float().mean()))}
    found["layer"] = {"mean": round(float(layers.float().mean()))}
    chosen = (multiplying[:, -1, 4, 9] - multiplying[:, -1, 4, 8]) % 2**32
    found["chosen"] = {"mean": round(float(chosen.float().mean()))}
    return found


def loaded(model: str, method: str, stored: str) -> decoders.Decoder:
    """Our decoder of a model that was prepared as `stored`, on the GPU."""
    task = PrepareTask(model=parse_model(model), method=stored, device=DEVICE)
    return decoders.load(Path(prepare(task, lambda _: None).path), method, DEVICE)


def variants(defines: Iterable[str]) -> list[dict[str, str]]:
    """Macros of each group `NAME=VALUE,...`; without groups the kernel as it is."""
    return [dict(one.split("=", 1) for one in group.split(",") if one) for group in defines or [""]]


def options(about: str | None, methods: Iterable[str], positions: int) -> argparse.ArgumentParser:
    """What a script about steps is told; `positions` is the default."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", action="append", choices=tuple(methods))
    parser.add_argument("--prompt-len", type=int, default=40)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument(
        "--positions", type=int, default=positions, help="teacher-forced, for the error; 0 leaves it out"
    )
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    return parser


def source_hash(gpu: Hardware | None = None) -> str:
    """Of the step kernel that this GPU, or another, is given."""
    return step_source.source_hash(gpu.capability if gpu else torch.cuda.get_device_capability(DEVICE))


def keep(line: dict[str, Any], arguments: argparse.Namespace, environment: Environment, kernel_source: str) -> None:
    """Say of a line how it was measured, and append it where that was asked for."""
    how = {"prompt_len": arguments.prompt_len, "output_len": arguments.output_len, "kernel_source": kernel_source}
    append(line | how, environment, arguments.out)


def main() -> None:
    """One line a method."""
    parser = options(__doc__, STORED, positions=256)
    parser.add_argument("--warps", type=int, action="append")
    parser.add_argument("--define", action="append", default=[], help="a variant of the kernel: NAME=VALUE,...")
    parser.add_argument("--stamps", action="store_true")
    another_gpu.add_to(parser)
    arguments = parser.parse_args()
    environment = collect(DEVICE)
    room = -(-max(40 + arguments.positions, arguments.prompt_len + arguments.output_len) // 256) * 256
    for method in arguments.method or ["fp16", "awq-int4"]:
        decoder = loaded(arguments.model, method, STORED[method])
        for gpu, batch, warps, extra in itertools.product(
            arguments.gpu or [None],
            arguments.batch or [1],
            arguments.warps or [step_source.NUM_WARPS],
            variants(arguments.define),
        ):
            kernel = on_cuda(decoder.forward, DEVICE, room, warps, extra, batch_size=batch, gpu=gpu)
            line: dict[str, Any] = {"model": arguments.model, "method": method, "batch": batch}
            line |= {"warps": warps, "define": extra} | ({"made_for": asdict(gpu)} if gpu else {})
            line |= timed(
                kernel, decoder.config.vocab_size, arguments.prompt_len, arguments.output_len, arguments.repeats
            )
            if arguments.positions:
                line |= errors(kernel, decoder, arguments.positions)
            print({k: v for k, v in line.items() if k != "model"}, flush=True)
            if arguments.stamps:
                more = {**extra, "PROFILE": "1"}
                profiled = on_cuda(decoder.forward, DEVICE, room, warps, more, batch_size=batch, gpu=gpu)
                timed(profiled, decoder.config.vocab_size, arguments.prompt_len, arguments.output_len, 2)
                line["cycles"] = where(profiled)
                for kind, row in line["cycles"].items():
                    print(f"  {kind:24}", row, flush=True)
                del profiled
            keep(line, arguments, environment, source_hash(gpu))
            del kernel
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
