"""The committed text is what its notice says, and windows score every token once, with the context that is stated."""

import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbench.facts import corpora

ROOT = Path(__file__).parents[2]
DATA = ROOT / "bitbench" / "facts" / "data"


def script():
    spec = importlib.util.spec_from_file_location("quality_corpus", ROOT / "scripts" / "quality_corpus.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notice_names_the_file_that_ships_with_its_licence():
    notice = (DATA / "quality-1.md").read_text()
    corpus = corpora.built_in()
    assert corpus.digest == hashlib.sha256((DATA / "quality-1.json").read_bytes()).hexdigest()
    assert corpus.digest in notice
    assert f"{len(corpus.documents)} documents, {sum(map(len, corpus.documents)):,} characters" in notice
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in (DATA / "PSF-2.0.txt").read_text()


def test_it_shares_no_twelve_words_with_awqs_calibration_or_itself():
    """Counted here in another way than the script does: all runs in one list of words."""
    rows = json.loads((ROOT / "bitbench" / "methods" / "data" / "calibration-1.json").read_text())
    calibration = [re.sub(r"\s+", " ", text) for row in rows for text in row.values()]
    for document in corpora.built_in().documents:
        words = document.split()
        for start in range(0, len(words) - 12, 3):
            run = " ".join(words[start : start + 12])
            assert not any(run in text for text in calibration), run
    assert len(set(corpora.built_in().documents)) == len(corpora.built_in().documents)


@pytest.mark.skipif(sys.version_info[:3] != (3, 11, 7), reason="another Python ships another text")
def test_the_script_writes_it_again(tmp_path, monkeypatch, capsys):
    made = script()
    monkeypatch.setattr(made, "DATA", tmp_path / "again.json")
    made.main()
    assert (tmp_path / "again.json").read_bytes() == (DATA / "quality-1.json").read_bytes()
    assert corpora.built_in().digest in capsys.readouterr().out


def test_a_users_text_is_parted_at_blank_lines(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("a" * 700 + "\n \n" + "b" * 100 + "\n\n" + "c" * 550 + "\n\n\nshort\n")
    corpus = corpora.own_text(file)
    assert corpus.name == "mine.txt"
    assert corpus.documents == ("a" * 700, "b" * 100 + "\n\n" + "c" * 550, "short")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_what_is_no_text_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="text"):
        corpora.own_text(tmp_path / "x")


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=6),
    st.integers(20, 120),
    st.integers(16, 120),
    st.sampled_from([None, 9999]),
)
def test_every_token_is_scored_once_in_order(lengths, window, stride, bos):
    stride = min(stride, window)
    documents = [list(range(1000 * i, 1000 * i + n)) for i, n in enumerate(lengths)]
    found = corpora.windows(documents, window, stride, bos, 10**6)
    scored: dict[int, list[int]] = {i: [] for i in range(len(documents))}
    for one in found:
        assert len(one.ids) <= window + (bos is not None)
        assert (one.ids[0] == bos) == (bos is not None)
        assert 16 <= one.num_scored < len(one.ids)
        scored[one.document] += one.ids[-one.num_scored :]
    for index, ids in enumerate(documents):
        assert scored[index] == [t for t in ids if t in set(scored[index])], "in order and once"
        if stride < window:  # all but the first, and a short end
            assert set(ids[1 : len(ids) - 16]) <= set(scored[index]) or len(ids) < 2 * 16


def test_a_stride_gives_the_scored_tokens_their_context():
    found = corpora.windows([list(range(100))], 40, 20, None, 10**6)
    assert [(w.ids[0], len(w.ids), w.num_scored) for w in found] == [
        (0, 40, 39), (20, 40, 20), (40, 40, 20), (60, 40, 20),
    ]  # fmt: skip


def test_it_ends_when_there_are_enough_positions():
    documents = [list(range(50))] * 10
    assert [w.document for w in corpora.windows(documents, 64, 64, None, 100)] == [0, 1, 2]


def test_a_stride_longer_than_the_window_is_refused():
    with pytest.raises(ValueError, match="stride"):
        corpora.windows([[1, 2]], 8, 9, None, 1)
