"""The ways that are timed against each other compute the same: here on a CPU, in float32."""

import json
from pathlib import Path

import grouped_attention
import pytest
import torch

RECORD = Path(__file__).parents[2] / "results" / "h200-grouped-attention.jsonl"


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("way", grouped_attention.WAYS)
def test_every_way_attends_to_the_visible_places(way, batch_size):
    q, k, v, mask = grouped_attention.tensors((6, 2, 16), batch_size, 40, torch.float32, "cpu")
    assert int((mask[0] == 0).sum()) == 40 - grouped_attention.HIDDEN
    assert grouped_attention.relative_error(way, q, k[0], v[0], mask) < 1e-5
    shown = slice(40 - grouped_attention.HIDDEN)
    keys, values = (x[0].repeat_interleave(3, dim=1)[:, :, shown] for x in (k, v))
    expected = torch.softmax(q @ keys.mT / 4, dim=-1) @ values
    torch.testing.assert_close(way(q, k[0], v[0], mask), expected, rtol=1e-4, atol=1e-5)


def test_the_record_has_every_shape_by_every_way():
    lines = [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]
    found = [(line["heads"], line["kv_heads"], line["head_dim"], line["batch"], line["cache_len"]) for line in lines]
    lengths = [(B, L) for B, lengths in grouped_attention.LENGTHS.items() for L in lengths]
    assert found == [(*heads, *length) for heads in grouped_attention.HEADS for length in lengths]
    assert all(list(line["ways"]) == [way.__name__ for way in grouped_attention.WAYS] for line in lines)
