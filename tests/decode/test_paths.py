"""Which kernels decode where."""

from dataclasses import replace

import pytest
import torch

from bitbench.decode.config import parse_config
from bitbench.decode.paths import choose, rounded, source_hash
from bitbench.facts.errors import Unsupported
from tests.decode.gpus import A100, H200, RTX_4090, T4
from tests.decode.test_decoder import BASE

CONFIG = parse_config(BASE | {"head_dim": 64})
LARGE = {"hidden_size": 3584, "intermediate_size": 18944, "num_heads": 28, "num_kv_heads": 4, "head_dim": 128}
UNCUT = {"hidden_size": 2048, "intermediate_size": 11008, "num_heads": 16, "num_kv_heads": 2, "head_dim": 128}


@pytest.mark.parametrize(
    ("change", "gpu", "batch", "fp8", "path"),
    [
        ({}, None, 4, False, "plain"), ({}, H200, 1, False, "step kernel"), ({}, H200, 8, False, "step kernel"),
        ({}, H200, 9, False, "Triton"), ({}, RTX_4090, 1, False, "step kernel"), ({}, T4, 1, False, "Triton"),
        ({}, A100, 8, False, "step kernel"), ({}, T4, 16, True, "Triton"),
        ({"head_dim": 96}, H200, 1, False, "Triton"), ({}, H200, 1, True, "Triton"),
        (LARGE, H200, 4, False, "step kernel"), (LARGE, H200, 5, False, "Triton"),
        (LARGE, A100, 4, False, "step kernel"), (LARGE, RTX_4090, 1, False, "step kernel"),
        (LARGE, RTX_4090, 2, False, "Triton"),
        (UNCUT, H200, 8, False, "step kernel"), (UNCUT, RTX_4090, 8, False, "Triton"),
    ],
)  # fmt: skip
def test_the_hardware_the_model_and_the_batch_decide(change, gpu, batch, fp8, path):
    assert choose(replace(CONFIG, **change), torch.float16, gpu, batch, fp8) == path


def test_where_nothing_runs_there_is_one_reason():
    with pytest.raises(Unsupported, match=r"need compute capability 7\.5 and this GPU has 7\.0"):
        choose(CONFIG, torch.float16, replace(T4, capability=(7, 0)), 1, False)


def test_records_tell_one_source_from_another():
    assert source_hash("plain", None) is None
    assert len({source_hash(path, gpu) for path in ("step kernel", "Triton") for gpu in (H200, A100, RTX_4090)}) == 3


def test_a_cache_has_a_little_more_room_within_the_context():
    assert [rounded(room, 1000) for room in (1, 256, 257, 900)] == [256, 256, 512, 1000]
