"""How often LLM.int8() meets outlier columns (activations >= 6.0 at the inputs of linear layers) in a 16-bit model.

    python scripts/outlier_rates.py demo --by-layer
    python scripts/outlier_rates.py shape:qwen2.5-0.5b

Text models run the 20 starting prompts, others as many committed ids; each is continued by greedy tokens, which count
too.
"""

import argparse

from bitbench.facts.messages import PrepareTask
from bitbench.facts.models import parse_model
from bitbench.facts.workloads import Workload, starting_prompts
from bitbench.methods import outliers
from bitbench.methods.checkpoint import prepare


def main() -> None:
    """Prepare, generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--by-layer", action="store_true")
    options = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task = PrepareTask(model=parse_model(options.model), method="bnb-int8", device="cpu")
    checkpoint = prepare(task, lambda _: None)
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.bfloat16)
    if checkpoint.has_tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
        chats = [[{"role": "user", "content": p.text}] for p in starting_prompts()[: options.prompts]]
        prompts = [
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
            for chat in chats
        ]
    else:
        workload = Workload(num_prompts=options.prompts, output_len=1)
        prompts = [workload.token_ids(i, model.config.vocab_size)[0] for i in range(options.prompts)]
    sequences = [_continue(model, ids, options.new_tokens) for ids in prompts]
    rates = outliers.measure(model, sequences)
    print(f"{options.model}: {rates.line} ({rates.token_rate:.4f}), {rates.columns:.2f} columns where it meets any;")
    print(f"{options.prompts} prompts, {sum(map(len, sequences))} tokens, of them {options.new_tokens} generated each")
    for name, rate, columns in rates.by_layer if options.by_layer else ():
        if columns:
            print(f"  {name:45s} tokens with an outlier {rate:5.1%}, columns {columns}")


def _continue(model, ids: list[int], new_tokens: int) -> list[int]:
    """The prompt with its greedy continuation."""
    import torch

    settings = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(torch.tensor([ids]), **settings)[0].tolist()


if __name__ == "__main__":
    main()
