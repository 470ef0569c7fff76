"""Write the text that quality is measured on: `bitbench/facts/data/quality-1.json`, from Python's own documentation.

`pydoc_data.topics` of the running Python, cut into documents. Nothing is taken that shares a run of twelve words with
the text that AWQ is calibrated with, or with what was taken before: topics repeat each other. Run it under Python
3.11.7 to get the committed file byte for byte (`data/quality-1.md`).
"""

import hashlib
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

DATA = Path(__file__).parent.parent / "bitbench" / "facts" / "data" / "quality-1.json"
CALIBRATION = Path(__file__).parent.parent / "bitbench" / "methods" / "data" / "calibration-1.json"
RUN_WORDS = 12
# About 400 tokens: many documents are many blocks for the bootstrap, and long enough for a context.
LEAST_CHARACTERS, MOST_CHARACTERS = 600, 1800
TOTAL_CHARACTERS = 206_000


def runs(text: str) -> set[str]:
    """Every run of twelve words; the whole text where it is shorter."""
    words = text.split()
    return {" ".join(words[i : i + RUN_WORDS]) for i in range(max(1, len(words) - RUN_WORDS + 1))}


def calibration_runs() -> set[str]:
    """Of every text in AWQ's calibration."""
    rows = json.loads(CALIBRATION.read_text(encoding="utf-8"))
    return set().union(*(runs(text) for row in rows for text in row.values()))


def fresh_paragraphs(text: str, seen: set[str]) -> Iterator[str | None]:
    """Paragraphs that share no run with `seen`, to which they are added; None where one was left out."""
    before: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        own = runs(paragraph) | runs(" ".join([*before, paragraph]))  # also those that begin in the paragraph before
        if own & seen:
            before = []
            yield None
        else:
            seen |= own
            before = [*before, *paragraph.split()][1 - RUN_WORDS :]
            yield paragraph


def documents(seen: set[str]) -> Iterator[dict[str, str]]:
    """Neighbouring paragraphs of a topic, up to `MOST_CHARACTERS`; a gap ends a document."""
    for topic, text in sorted(topics.items()):
        kept: list[str] = []
        for paragraph in (*fresh_paragraphs(text, seen), None):
            full = paragraph is None or sum(map(len, kept)) + len(paragraph) > MOST_CHARACTERS
            if full and sum(map(len, kept)) >= LEAST_CHARACTERS:
                yield {"topic": topic, "text": "\n\n".join(kept)}
            kept = [*([] if full else kept), *([] if paragraph is None else [paragraph])]


def main() -> None:
    """Write the file and print its hash."""
    found = list(documents(calibration_runs()))
    random.Random(1).shuffle(found)  # so that the first few are of many topics
    chosen, total = [], 0
    for document in found:
        if total < TOTAL_CHARACTERS:
            chosen.append(document)
            total += len(document["text"])
    DATA.write_text(json.dumps(chosen, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    digest = hashlib.sha256(DATA.read_bytes()).hexdigest()
    print(f"Python {sys.version.split()[0]}: {len(found)} documents, {len(chosen)} taken, {total} characters, {digest}")


if __name__ == "__main__":
    main()
