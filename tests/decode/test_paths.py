"""Which kernels decode where."""

from dataclasses import replace

import pytest
import torch

from bitbench.decode.config import parse_config
from bitbench.decode.paths import choose, rounded, source_hash
from bitbench.facts.errors import Unsupported
from tests.decode.test_decoder import BASE

CONFIG = parse_config(BASE | {"head_dim": 64})
LARGE = {"hidden_size": 3584, "intermediate_size": 18944, "num_heads": 28, "num_kv_heads": 4, "head_dim": 128}
UNCUT = {"hidden_size": 2048, "intermediate_size": 11008, "num_heads": 16, "num_kv_heads": 2, "head_dim": 128}


@pytest.mark.parametrize(
    ("change", "capability", "batch", "fp8", "path"),
    [
        ({}, None, 4, False, "plain"), ({}, (9, 0), 1, False, "step kernel"), ({}, (9, 0), 8, False, "step kernel"),
        ({}, (9, 0), 9, False, "Triton"), ({}, (8, 9), 1, False, "Triton"), ({}, (7, 5), 16, True, "Triton"),
        ({"head_dim": 96}, (9, 0), 1, False, "Triton"), ({}, (9, 0), 1, True, "Triton"),
        (LARGE, (9, 0), 4, False, "step kernel"), (LARGE, (9, 0), 5, False, "Triton"),
        (UNCUT, (9, 0), 6, False, "step kernel"), (UNCUT, (9, 0), 7, False, "Triton"),
    ],
)  # fmt: skip
def test_the_capability_the_model_and_the_batch_decide(change, capability, batch, fp8, path):
    gpu = (capability, 132) if capability else None
    assert choose(replace(CONFIG, **change), torch.float16, gpu, batch, fp8) == path


def test_where_nothing_runs_there_is_one_reason():
    with pytest.raises(Unsupported, match=r"need compute capability 7\.5 and this GPU has 7\.0"):
        choose(CONFIG, torch.float16, ((7, 0), 80), 1, False)


def test_records_tell_one_source_from_another():
    assert source_hash("plain") is None
    assert source_hash("step kernel") != source_hash("Triton")


def test_a_cache_has_a_little_more_room_within_the_context():
    assert [rounded(room, 1000) for room in (1, 256, 257, 900)] == [256, 256, 512, 1000]
