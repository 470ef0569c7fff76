"""What an examination of the machine finds."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["good", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One topic: what was seen, whether it harms measurements (`bad`) or is worth knowing (`note`), and what to do."""

    topic: str
    state: str
    verdict: Verdict = "good"
    advice: str = ""
