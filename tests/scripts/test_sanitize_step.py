"""The model that the sanitizers watch is one that the step kernel runs: here on the emulated device."""

import pytest
import sanitize_step
import torch
from another_gpu import another_gpu

from bitbench.decode import cuda_source
from bitbench.decode.decoder import Decoder
from tests.decode.emulated import COMPILER, emulated
from tests.decode.gpus import A100


@pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")
@torch.inference_mode()
@pytest.mark.parametrize(("method", "every_lane"), [*((m, False) for m in sanitize_step.METHODS), ("int8-wo", True)])
def test_steps_of_the_random_model_are_the_plain_decoders(method, every_lane, monkeypatch):
    if every_lane:
        monkeypatch.setattr(
            "tests.decode.emulated.source", lambda *how: sanitize_step.by_every_lane(cuda_source.source(*how))
        )
    forward = sanitize_step.forward(method, "cpu")
    decoder = Decoder(forward.config, forward, torch.float16, "cpu")
    kernel = emulated(decoder, 256, num_blocks=7, o_parts=2)
    kernel.start([5, 9, 700, 3])
    kernel.force(11)
    kernel.advance(1, keep_logits=True)
    assert torch.allclose(kernel.logits(), decoder.logits([5, 9, 700, 3, 11], 1)[0], atol=2e-2)


def test_another_gpu_is_told_by_three_numbers():
    assert another_gpu("8.0:108:163") == A100
