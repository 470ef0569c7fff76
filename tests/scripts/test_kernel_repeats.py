"""Kernels that give the same numbers each time, on a CPU."""

import argparse

import kernel_repeats
import pytest

from tests.methods.models import write_model


def test_plain_products_repeat_on_a_cpu_and_noise_is_told(tmp_path, own_cache, monkeypatch):
    options = argparse.Namespace(model=str(write_model(tmp_path / "model")), device="cpu", prompts=1)
    found = kernel_repeats.repeats(options, "bf16")
    assert found == {"runs_equal": [True] * 2, "reading_equal": [True] * 3, "reading_rms": [0.0] * 3}

    load = kernel_repeats.load

    def noisy(*what):
        model, readings = load(*what), iter(range(4))
        logits = model.logits
        model.logits = lambda *text: logits(*text) + next(readings)
        return model

    monkeypatch.setattr(kernel_repeats, "load", noisy)
    assert kernel_repeats.repeats(options, "bf16")["reading_rms"] == pytest.approx([1, 2, 3], rel=0.01)
