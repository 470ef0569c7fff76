from itertools import groupby
from xml.etree import ElementTree

import pytest

from bitbench.explain.rows import explain
from bitbench.reports.picture import picture
from bitbench.results.summary import summarize
from tests.factories import explained_h200, processes, record

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str) -> tuple[list[list[ElementTree.Element]], list[str]]:
    """The parts of each bar, and all texts."""
    root = ElementTree.fromstring(svg)
    parts = [r for r in root.findall(f"{SVG}rect") if r.find(f"{SVG}title") is not None]
    bars = [list(bar) for _, bar in groupby(parts, key=lambda r: float(r.attrib["y"]))]
    return bars, [t.text or "" for t in root.findall(f"{SVG}text")]


def test_bars_are_on_one_scale_and_their_parts_follow_each_other() -> None:
    rows = [row for row in summarize(explained_h200()) if row.engine == "transformers"]
    bars, _ = drawn(picture(explain(rows)))
    times = [row.tpot_s for row in rows if row.status == "ok" and row.tpot_s]
    assert len(bars) == len(times) > 1
    widths = []
    for bar in bars:
        x = float(bar[0].attrib["x"])
        for part in bar:
            assert float(part.attrib["x"]) == pytest.approx(x, abs=0.02)
            x += float(part.attrib["width"])
        widths.append(x - float(bar[0].attrib["x"]))
    scales = [width / time for width, time in zip(widths, times, strict=True)]
    assert scales == pytest.approx([scales[0]] * len(scales), rel=1e-2)


def test_a_table_of_much_shorter_steps_is_drawn_wider_and_says_how_much() -> None:
    slow = processes("fp16", [0.01, 0.01], where={"engine": "transformers"})
    fast = processes("fp16", [0.0009, 0.0009], where={"engine": "fused"})
    near = processes("fp16", [0.004, 0.004], where={"engine": "graphed"})
    bars, texts = drawn(picture(explain(summarize([*fast, *near, *slow]))))
    widths = [sum(float(part.attrib["width"]) for part in bar) for bar in bars]
    assert widths == pytest.approx([widths[0], 0.4 * widths[0], 0.09 * 11 * widths[0]], rel=1e-2)
    (told,) = [text for text in texts if "times as wide" in text]
    assert "fused" in told and told.endswith("drawn 11 times as wide")


def test_the_legend_names_what_is_drawn_and_nothing_else() -> None:
    explained = explain(summarize(explained_h200()))
    bars, texts = drawn(picture(explained))
    named = {part.find(f"{SVG}title").text.split(":")[0] for bar in bars for part in bar}  # type: ignore[union-attr]
    words = ("ceiling", "rest of", "gaps", "GPU idle", "not known")
    assert {t for t in texts if t.startswith(words)} == named


def test_names_are_escaped_and_a_row_without_a_time_is_left_out() -> None:
    records = [*processes("fp16<&>", [0.01, 0.011]), record("bnb-nf4", status="timeout", samples=())]
    bars, texts = drawn(picture(explain(summarize(records))))
    assert len(bars) == 1 and "fp16<&>" in texts and "bnb-nf4" not in texts


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no row has a step's time"):
        picture(explain(summarize([record("fp16", status="timeout", samples=())])))
