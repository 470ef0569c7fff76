"""Quantizing by gptqmodel, on a tiny model; and the faster clip search against gptqmodel's own."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Checkpoint, PrepareTask, Progress
from bitbench.facts.models import SHAPES, ModelRef
from bitbench.methods import awq, awq_clip, calibration
from bitbench.methods.checkpoint import plan, prepare
from tests.methods.models import tiny, write_model


def test_group_sizes() -> None:
    assert {name: awq.group_size_for(shape) for name, shape in SHAPES.items()} == {
        name: 64 if name == "smollm2-135m" else 128 for name in SHAPES
    }
    with pytest.raises(LoadError, match="no group"):
        awq.group_size_for(tiny(hidden_size=100))


def test_the_recipe_names_all_that_decides() -> None:
    recipes = {awq.recipe(h, g, d) for h in ("a", "b") for g in (64, 128) for d in ("cpu", "cuda:0")}
    assert len(recipes) == 8
    assert awq.recipe("a", 64, "cuda:0") == awq.recipe("a", 64, "cuda:1")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, demo_checkpoint: Checkpoint) -> Path:
    """Two layers of 192 channels with the demo's tokenizer."""
    shape = tiny(hidden_size=192, vocab_size=SHAPES["smollm2-135m"].vocab_size)
    folder = write_model(tmp_path_factory.mktemp("tiny") / "tiny-model", shape)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(demo_checkpoint.path) / name, folder)
    return folder


def test_a_folder_is_quantized_once(tiny_folder: Path, own_cache: Path) -> None:
    model = ModelRef(kind="folder", name=str(tiny_folder))
    task = PrepareTask(model=model, method="awq-int4", device="cpu")
    seen: list[Progress] = []
    checkpoint = prepare(task, seen.append)
    layers = [(p.done, p.total) for p in seen if p.stage == "quantize" and "layer" in p.detail]
    assert layers == [(0, 2), (1, 2), (2, 2)]
    assert (checkpoint.group_size, checkpoint.title, checkpoint.has_tokenizer) == (64, "tiny-model", True)
    assert calibration.NAME in checkpoint.origin
    assert checkpoint.origin.endswith("from: local folder tiny-model")
    assert plan(model, "awq-int4", "cpu").cached
    again: list[Progress] = []
    assert prepare(task, again.append) == checkpoint
    assert "quantize" not in {p.stage for p in again}
    _check_close(tiny_folder, Path(checkpoint.path))


def _check_close(plain: Path, quantized: Path) -> None:
    """The quantized model answers about as the plain one, and not exactly."""
    from transformers import AutoModelForCausalLM

    ids = torch.arange(1000, 1064).reshape(1, -1)
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)(ids).logits
        model = AutoModelForCausalLM.from_pretrained(quantized, dtype=torch.bfloat16, device_map="cpu")
        got = model(ids).logits.float()
    assert type(model.model.layers[0].mlp.down_proj).__name__ == "TorchAtenAwqLinear"
    error = float((got - expected).norm() / expected.norm())
    assert 0.001 < error < 0.3


@pytest.mark.parametrize(("dtype", "same"), [(torch.float32, 1.0), (torch.bfloat16, 0.95)])
def test_the_fast_clip_search_finds_what_gptqmodel_finds(dtype: torch.dtype, same: float) -> None:
    """In float32 the very same bounds; in bfloat16 gptqmodel rounds every product, which turns a few near ties."""
    from gptqmodel.looper.awq_processor import AWQProcessor

    processor = SimpleNamespace(qcfg=SimpleNamespace(group_size=64, bits=4, sym=False))
    processor._pseudo_quantize_tensor_into = AWQProcessor._pseudo_quantize_tensor_into.__get__(processor)
    generator = torch.Generator().manual_seed(3)
    weight = (torch.randn(256, 192, generator=generator) * 0.05).to(dtype)
    inputs = (torch.randn(1100, 192, generator=generator) * torch.rand(192, generator=generator) * 3).to(dtype)
    theirs = AWQProcessor._compute_best_clip(processor, weight, inputs)
    ours = awq_clip.best_clip(weight, inputs, 64, 4)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert len(ours.div(theirs).unique()) < 30
    assert float((ours == theirs).float().mean()) >= same
    assert float((ours < weight.abs().reshape(256, 3, 64).amax(-1, keepdim=True)).float().mean()) > 0.2


def test_the_fast_clip_search_is_put_back() -> None:
    from gptqmodel.looper.awq_processor import AWQProcessor

    original = AWQProcessor._compute_best_clip
    with pytest.raises(RuntimeError), awq_clip.fast_clip_search():
        assert AWQProcessor._compute_best_clip is not original
        raise RuntimeError
    assert AWQProcessor._compute_best_clip is original
