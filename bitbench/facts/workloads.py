"""What is asked of a model: how many prompts of what length, how many new tokens, how many at once.

A name says it all: `starting-20x128` is 20 committed prompts with 128 new tokens each; `p40-n128-b4@d1024` is
40 prompt tokens after 1024 tokens of context, 128 new tokens, 4 sequences at once. Token workloads take their ids from
a committed list, so that a model without a tokenizer runs the same.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

STARTING_PROMPTS = 20
TOKEN_PROMPTS = 20
_STARTING = re.compile(r"starting-(\d+)x(\d+)")
_TOKENS = re.compile(r"p(\d+)-n(\d+)(?:-b(\d+))?(?:@d(\d+))?")
_FORMS = (
    "starting-20x128 (N prompts x M new tokens, N up to 20) or pP-nN[-bB][@dD], "
    "such as p40-n128, p512-n64-b8, p40-n64@d8192"
)


@dataclass(frozen=True, slots=True)
class Workload:
    """`prompt_len` is None where prompts are text and every tokenizer makes its own length of them.

    `depth` is the number of context tokens before the prompt; they are prefilled with it, so TTFT covers both.
    """

    num_prompts: int
    output_len: int
    prompt_len: int | None = None
    batch_size: int = 1
    depth: int = 0

    def __post_init__(self) -> None:
        for name in ("num_prompts", "output_len", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"a workload's {name} must be at least 1")
        if self.prompt_len is not None and self.prompt_len < 1:
            raise ValueError("a workload's prompt_len must be at least 1")
        if self.is_text and self.batch_size > 1:
            raise ValueError(
                "the starting prompts differ in length and run one at a time: "
                "for a batch use a workload such as p40-n128-b8"
            )
        if self.is_text and self.num_prompts > STARTING_PROMPTS:
            raise ValueError(f"there are {STARTING_PROMPTS} starting prompts, not {self.num_prompts}")

    @property
    def is_text(self) -> bool:
        """True for the committed text prompts, False for committed token ids."""
        return self.prompt_len is None

    @property
    def name(self) -> str:
        """The canonical name; `parse_workload(w.name)` gives `w` back."""
        if self.is_text:
            return f"starting-{self.num_prompts}x{self.output_len}"
        batch = f"-b{self.batch_size}" if self.batch_size > 1 else ""
        depth = f"@d{self.depth}" if self.depth else ""
        return f"p{self.prompt_len}-n{self.output_len}{batch}{depth}"

    def token_ids(self, prompt_index: int, vocab_size: int) -> list[list[int]]:
        """Committed ids of one batch of prompts, [batch_size][depth + prompt_len], each below `vocab_size`.

        Text prompts of a model without a tokenizer get ids too, as many as the demo's tokenizer makes of that prompt.
        """
        length = (
            starting_prompts()[prompt_index % STARTING_PROMPTS].num_tokens
            if self.prompt_len is None
            else self.prompt_len
        )
        first = prompt_index * self.batch_size
        return [_ids(first + row, self.depth + length, vocab_size) for row in range(self.batch_size)]


@dataclass(frozen=True, slots=True)
class StartingPrompt:
    """One of the committed prompts. `num_tokens` is its length in the demo's tokenizer, chat template included."""

    text: str
    num_tokens: int


@cache
def starting_prompts() -> tuple[StartingPrompt, ...]:
    """The 20 committed prompts, in order."""
    rows = json.loads((files("bitbench.facts") / "data" / "prompts.json").read_text(encoding="utf-8"))
    return tuple(StartingPrompt(row["text"], row["num_tokens"]) for row in rows)


@cache
def _committed_ids() -> tuple[int, ...]:
    return tuple(json.loads((files("bitbench.facts") / "data" / "token_ids.json").read_text(encoding="utf-8")))


def _ids(sequence: int, length: int, vocab_size: int) -> list[int]:
    """Ids of one sequence: the committed list from a start of its own, shifted at each turn not to repeat."""
    ids = _committed_ids()
    start, turns = sequence * 997, len(ids)
    return [(ids[(start + i) % turns] + 31 * ((start + i) // turns)) % vocab_size for i in range(length)]


def parse_workload(name: str) -> Workload:
    """Read a workload's name. Raises ValueError naming the valid forms."""
    if match := _STARTING.fullmatch(name):
        return Workload(num_prompts=int(match[1]), output_len=int(match[2]))
    if match := _TOKENS.fullmatch(name):
        prompt_len, output_len, batch_size, depth = (int(g) if g else 0 for g in match.groups())
        return Workload(TOKEN_PROMPTS, output_len, prompt_len, batch_size or 1, depth)
    raise ValueError(f"unknown workload '{name}': give {_FORMS}")
