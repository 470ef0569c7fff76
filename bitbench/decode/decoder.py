"""A small decoder for Llama-family models: `load` a checkpoint, `generate` from token ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitbench.decode import paths, rope
from bitbench.decode.config import DecoderConfig, read_config
from bitbench.decode.forward import Forward, new_cache
from bitbench.decode.sampling import Sampling, choose
from bitbench.decode.steps import Steps
from bitbench.decode.weights import Storage, load_weights
from bitbench.facts.errors import Unsupported

MAX_BATCH = 16
_STEPS_AT_ONCE = 16
"""A GPU takes so many steps before the host looks at their tokens: a few may come after the last EOS in vain."""
METHODS: dict[str, tuple[bool, Storage, Storage]] = {
    "fp16": (False, "16bit", "16bit"),
    "bf16": (False, "16bit", "16bit"),
    "int8-wo": (False, "int8", "int8"),
    "fp8-wo": (False, "fp8", "fp8"),
    "awq-int4": (True, "16bit", "16bit"),
    "awq-int4-head8": (True, "16bit", "int8"),
}
"""Method -> (needs an AWQ checkpoint, how 16-bit layers are stored, how lm_head is)."""


@dataclass(slots=True)
class Decoder:
    """A loaded model. `dtype` is that of its activations, `steps` those of the last generation."""

    config: DecoderConfig
    forward: Forward
    dtype: Any
    device: str
    steps: Steps | None = field(default=None)

    def generate(
        self,
        ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        sampling: Sampling | None = None,
        eos_ids: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> list[list[int]]:
        """New tokens of a batch of equally long prompts, [batch][at most max_new_tokens]; each ends with its EOS.

        Greedy without `sampling`. `eos_ids` are the checkpoint's own unless given; an empty list ends nothing early.
        Raises ValueError for prompts that differ in length, are too many or hold unknown ids, and where prompt and
        output are longer than the context, before anything runs; Unsupported on a GPU that no kernels are for.
        """
        self._check(ids, max_new_tokens)
        ends = set(self.config.eos_ids if eos_ids is None else eos_ids)
        new: list[list[int]] = [[] for _ in ids]
        open_rows = set(range(len(ids)))
        for tokens in self._tokens(ids, max_new_tokens, sampling or Sampling(), seed):
            for row in tuple(open_rows):
                new[row].append(tokens[row])
                if tokens[row] in ends:
                    open_rows.remove(row)
            if not open_rows:
                break
        return new

    def _tokens(
        self, ids: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling, seed: int | None
    ) -> Iterator[list[int]]:
        """The next token of every sequence, again and again; those after an EOS mean nothing."""
        import torch

        if not max_new_tokens:
            return
        steps = self.prepared(len(ids), len(ids[0]) + max_new_tokens)
        steps.start_all(ids)
        if sampling.temperature == 0:
            yield from self._greedy(steps, len(ids[0]), max_new_tokens)
            return
        generator = torch.Generator(self.device).manual_seed(seed) if seed is not None else None
        for number in range(max_new_tokens):
            if number:
                steps.advance(1, keep_logits=True)
            chosen: list[int] = choose(steps.all_logits(), sampling, generator).tolist()
            steps.force_all(chosen)
            yield chosen

    def _greedy(self, steps: Steps, prompt_len: int, max_new_tokens: int) -> Iterator[list[int]]:
        at_once = 1 if self.device == "cpu" else _STEPS_AT_ONCE
        yield [token for (token,) in steps.all_tokens(prompt_len, 1)]
        for done in range(1, max_new_tokens, at_once):
            count = min(at_once, max_new_tokens - done)
            steps.advance(count)
            yield from (list(tokens) for tokens in zip(*steps.all_tokens(prompt_len + done, count), strict=True))

    def logits(self, ids: Sequence[int], num_last: int) -> Any:
        """float32 logits [num_last, vocab] after each of the last ids, all ids read at once."""
        return self._logits([ids], num_last)[0]

    def batch_logits(self, ids: Sequence[Sequence[int]]) -> Any:
        """float32 logits [batch, length, vocab] after each id of equally long texts."""
        return self._logits(ids, len(ids[0]))

    def _logits(self, ids: Sequence[Sequence[int]], num_last: int) -> Any:
        import torch

        self._check(ids, 0)
        with torch.inference_mode():
            cache = new_cache(self.config, len(ids), len(ids[0]), self.dtype, self.device)
            return self.forward.logits(torch.tensor([list(row) for row in ids], device=self.device), cache, num_last)

    def in_float32(self) -> "Decoder":
        """The same stored matrices with float32 arithmetic: what kernels and 16-bit arithmetic are compared with."""
        import torch

        weights, c = self.forward.weights.with_vectors(torch.float32), self.config
        return Decoder(c, Forward(c, weights, self.forward.cos_sin), torch.float32, self.device)

    def prepared(self, batch_size: int, room: int) -> Steps:
        """For so many sequences and positions: those of the last generation where they suit, else new ones."""
        if self.steps is None or self.steps.batch_size != batch_size or self.steps.room < room:
            self.steps = None  # the old cache is freed first
            room = room if self.device == "cpu" else paths.rounded(room, self.config.context_len)
            self.steps = paths.new_steps(self.forward, self.device, room, batch_size)
        return self.steps

    def _check(self, ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        lengths = {len(row) for row in ids}
        if not 1 <= len(ids) <= MAX_BATCH:
            raise ValueError(f"a batch of {len(ids)} is not supported: 1 to {MAX_BATCH} sequences are")
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"prompts must be equally long and not empty, these have {sorted(lengths)} tokens")
        if max_new_tokens < 0:
            raise ValueError("max_new_tokens must be at least 0")
        longest = lengths.pop() + max_new_tokens
        if longest > self.config.context_len:
            raise ValueError(
                f"prompt and output of {longest} tokens are longer than the context of {self.config.context_len}"
            )
        if any(not 0 <= token < self.config.vocab_size for row in ids for token in row):
            raise ValueError(f"token ids must be at least 0 and below {self.config.vocab_size}")


def load(folder: str | Path, method: str = "fp16", device: str = "cpu", dtype: Any = None) -> Decoder:
    """Load a checkpoint for a method of METHODS. `dtype` of the activations: float16, or bfloat16 for `bf16`.

    Raises ValueError for an unknown method, LoadError, and Unsupported for a model this decoder cannot run.
    """
    import torch

    if method not in METHODS:
        raise ValueError(f"unknown method '{method}': choose from {', '.join(METHODS)}")
    needs_awq, layers, head = METHODS[method]
    config = read_config(Path(folder))
    if needs_awq != bool(config.group_size):
        stored = "is an AWQ one" if config.group_size else "is no AWQ one"
        fitting = ", ".join(name for name, (awq, *_) in METHODS.items() if awq == bool(config.group_size))
        raise Unsupported(f"the checkpoint {stored}, so {method} cannot be made of it: choose from {fitting}")
    dtype = dtype or (torch.bfloat16 if method == "bf16" else torch.float16)
    weights = load_weights(Path(folder), config, dtype=dtype, device=device, layers=layers, head=head)
    forward = Forward(config, weights, rope.table(config, config.context_len, device))
    return Decoder(config, forward, dtype, device)
