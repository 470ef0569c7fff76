"""Texts that quality is measured on, cut into documents, and documents of tokens cut into windows."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

NAME = "bitbench-quality-1"
"""The committed text: source and licence in `data/quality-1.md`."""

# A user's paragraphs are put together until a document has so many characters, some 150 tokens: single ones are too
# short to be read with any context.
_LEAST_CHARACTERS = 600
# What is left at a document's end is not worth a window of its own below this.
_LEAST_SCORED = 16


@dataclass(frozen=True, slots=True)
class Corpus:
    """A named text. `digest`: SHA-256 of the file. Documents are the blocks of the bootstrap."""

    name: str
    digest: str
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """Token ids read at once, BOS included, and how many of the last are scored. `document` is its index."""

    ids: tuple[int, ...]
    num_scored: int
    document: int


def built_in() -> Corpus:
    """The committed text, 147 documents, about 51,000 tokens."""
    content = (files("bitbench.facts") / "data" / "quality-1.json").read_bytes()
    return Corpus(NAME, hashlib.sha256(content).hexdigest(), tuple(row["text"] for row in json.loads(content)))


def own_text(file: Path) -> Corpus:
    """A user's text file, its documents parted by blank lines. Raises ValueError where it is no text, OSError."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text") from error
    documents = tuple(_documents(text))
    if not documents:
        raise ValueError(f"{file} holds no text")
    return Corpus(file.name, hashlib.sha256(content).hexdigest(), documents)


def _documents(text: str) -> Iterator[str]:
    kept: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.strip():
            kept.append(paragraph.strip("\n"))
        if sum(map(len, kept)) >= _LEAST_CHARACTERS:
            yield "\n\n".join(kept)
            kept = []
    if kept:
        yield "\n\n".join(kept)


def windows(
    documents: Sequence[Sequence[int]], window: int, stride: int, bos_id: int | None, num_positions: int
) -> list[Window]:
    """Windows of `window` tokens whose last `stride` are new and scored, until there are `num_positions` in all.

    Each starts with the BOS where there is one; a document's first window scores all its tokens, but without a BOS not
    the first, which nothing precedes. Raises ValueError for a stride that does not fit.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"a stride of {stride} does not fit a window of {window} tokens")
    found: list[Window] = []
    for index, ids in enumerate(documents):
        for one in _of_document(ids, window, stride, bos_id, index):
            if sum(w.num_scored for w in found) >= num_positions:
                return found
            found.append(one)
    return found


def _of_document(ids: Sequence[int], window: int, stride: int, bos_id: int | None, index: int) -> Iterator[Window]:
    before = () if bos_id is None else (bos_id,)
    done = 0
    while done < len(ids):
        end = min(len(ids), window if not done else done + stride)
        first = max(0, end - window) if stride < window else done
        read = (*before, *ids[first:end])
        num_scored = min(end - done, len(read) - 1)
        if num_scored >= _LEAST_SCORED:
            yield Window(read, num_scored, index)
        done = end
