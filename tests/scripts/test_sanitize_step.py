"""The model that the sanitizers watch is one that the step kernel runs: here on the emulated device."""

import pytest
import sanitize_step
import torch

from bitbench.decode.decoder import Decoder
from tests.decode.emulated import COMPILER, emulated


@pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")
@torch.inference_mode()
@pytest.mark.parametrize("method", sanitize_step.METHODS)
def test_steps_of_the_random_model_are_the_plain_decoders(tmp_path, method):
    forward = sanitize_step.forward(method, "cpu")
    decoder = Decoder(forward.config, forward, torch.float16, "cpu")
    kernel = emulated(decoder, 256, num_blocks=7, o_parts=2)
    kernel.start([5, 9, 700, 3])
    kernel.force(11)
    kernel.advance(1, keep_logits=True)
    assert torch.allclose(kernel.logits(), decoder.logits([5, 9, 700, 3, 11], 1)[0], atol=2e-2)
