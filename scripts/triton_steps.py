"""The Triton decode steps on a GPU: are they right, and how fast are they?

For each method and batch size: relative RMS error of the logits over teacher-forced positions, against the same stored
numbers in float32, beside that of the plain decoder in 16 bit; and the time of a step, by CUDA events and by the host.
Appends one JSON line each with --out.

    python scripts/triton_steps.py shape:qwen2.5-0.5b --method fp16 --method awq-int4 --batch 1 --batch 8
"""

from typing import Any

import torch
from decode_steps import DEVICE, STORED, errors, keep, loaded, options, timed

from bitbench.decode.triton_steps import on_cuda, source_hash
from bitbench.results.machine import collect

METHODS = {**STORED, "fp8-wo": "fp16"}


def main() -> None:
    """One line a method and batch size."""
    parser = options(__doc__, METHODS, positions=64)
    arguments = parser.parse_args()
    environment = collect(DEVICE)
    room = max(40 + arguments.positions, arguments.prompt_len + arguments.output_len)
    for method in arguments.method or ["fp16", "awq-int4"]:
        decoder = loaded(arguments.model, method, METHODS[method])
        for batch in arguments.batch or [1]:
            steps = on_cuda(decoder.forward, DEVICE, room, batch)
            line: dict[str, Any] = {"model": arguments.model, "method": method, "batch": batch}
            line |= timed(
                steps, decoder.config.vocab_size, arguments.prompt_len, arguments.output_len, arguments.repeats
            )
            if arguments.positions:
                line |= errors(steps, decoder, arguments.positions)
            line["tuned"] = steps.product_keys() <= steps.tuning.measured
            print(line, flush=True)
            keep(line, arguments, environment, source_hash())
            del steps
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
