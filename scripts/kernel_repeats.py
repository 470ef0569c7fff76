"""Whether a method's kernels give the same numbers each time: answers and readings by eager transformers, repeated.

Three answers of 64 tokens are generated three times; the first is read four times at once, and `reading_rms` is the
root mean square difference of the logits from the first reading's. A kernel that adds up parts of a sum in the order in
which they come differs in its last bits, so tokens of an engine that drives it may differ too: same_tokens.py.

    python scripts/kernel_repeats.py shape:qwen2.5-0.5b --method awq-int4:marlin --method awq-int4:gemm --out FILE
"""

import argparse
import json
from pathlib import Path
from typing import Any

from same_tokens import load, prepared, prompts, reading_differences

NUM_TOKENS, RUNS = 64, 3


def repeats(options: argparse.Namespace, method: str) -> dict[str, Any]:
    """What is equal to the first run and to the first reading of one method."""
    model = load("transformers", prepared(options, method.partition(":")[0]), method, options.device)
    batches = prompts(model, options.prompts, 1)
    first, *others = ([model.generate(batch, NUM_TOKENS, None) for batch in batches] for _ in range(RUNS))
    differences = reading_differences(model, [*batches[0][0], *first[0][0]], NUM_TOKENS)
    return {
        "runs_equal": [first == other for other in others],
        "reading_equal": [difference == 0 for difference in differences],
        "reading_rms": differences,
    }


def main() -> None:
    """Write the JSON and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--method", action="append", required=True, help="repeat for several")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = {method: repeats(options, method) for method in options.method}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
