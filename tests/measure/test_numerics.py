"""The numerics gate lets honest kernels pass and catches those that are slightly wrong."""

import pytest
import torch

from bitbench.engines.transformers import TransformersEngine, TransformersModel
from bitbench.measure import numerics
from bitbench.measure.gaps import IncorrectOutput
from bitbench.methods.registry import parse_method
from tests.engines.tiny import checkpoint, in_float32, prompt_ids, write_tiny, write_tiny_awq

IDS = prompt_ids(40)[0]
METHODS = ["fp16", "bf16", "bnb-int8", "bnb-int8-t0", "bnb-nf4", "awq-int4", "int8-wo", "awq-int4-head8"]
LAYER = "layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("tiny")
    plain = write_tiny(base / "plain")
    awq = write_tiny_awq(plain, base / "awq")
    return {"awq-int4": awq, "awq-int4-head8": awq, "": plain}


def load(folders, method) -> TransformersModel:
    folder = folders.get(method, folders[""])
    return TransformersEngine().load(checkpoint(folder), parse_method(method), "cpu", False)


@pytest.mark.parametrize("method", METHODS)
def test_honest_kernels_pass_on_random_weights(folders, method):
    for seed in (1, 2):
        found = numerics.check(load(folders, method), IDS, 8, seed)
        num_layers = 15 if method in ("int8-wo", "awq-int4-head8") else 14  # with an lm_head that is not 16 bit
        assert (found.num_layers, found.num_unchecked, found.seed) == (num_layers, 0, seed)
        assert 0 < found.layer_excess < 0.8
        assert found.step_error < 0.25


@pytest.mark.parametrize("method", ["bf16", "bnb-int8", "int8-wo", "awq-int4"])
def test_layers_are_checked_as_a_batch_is_decoded(folders, method):
    model = load(folders, method)
    shapes = set()
    module = model._model.model.get_submodule(LAYER)
    hook = module.register_forward_pre_hook(lambda _, args: shapes.add(tuple(args[0].shape[:2])))
    try:
        numerics.check(model, IDS, 8, 1, batch_size=3)
    finally:
        hook.remove()
    assert {(3, 1), (1, numerics.PREFILL_INPUTS)} <= shapes and (1, 1) not in {s for s in shapes if s[0] == 3}


def spoil_scale(module) -> None:
    """One scale of one group (of one row, where a row is the group) half as large again."""
    with torch.inference_mode():
        kind = type(module).__name__
        if kind == "Linear4bit":
            module.weight.quant_state.absmax[5] *= 1.5
        elif kind == "Linear8bitLt":
            module.weight.SCB[5] *= 1.5
        elif kind == "Int8RowsLinear":
            module.scale_O[5] *= 1.5
        else:
            module.scales[1, 5] *= 1.5


@pytest.mark.parametrize("method", ["bnb-int8", "bnb-int8-t0", "bnb-nf4", "awq-int4", "int8-wo"])
def test_a_wrong_scale_in_one_group_of_one_layer_is_caught(folders, method):
    """Before the first step: bitsandbytes packs its numbers anew there."""
    model = load(folders, method)
    spoil_scale(model._model.model.get_submodule(LAYER))
    with pytest.raises(IncorrectOutput, match=rf"{LAYER} does not multiply by the numbers that are stored"):
        numerics.check(model, IDS, 8, 1)


def test_a_wrong_scale_in_an_int8_lm_head_is_caught(folders):
    model = load(folders, "awq-int4-head8")
    spoil_scale(model._model.lm_head)
    with pytest.raises(IncorrectOutput, match="lm_head does not multiply by the numbers that are stored"):
        numerics.check(model, IDS, 8, 1)


@pytest.mark.parametrize("method", ["bf16", "bnb-nf4"])
@pytest.mark.parametrize("cheat", ["zeros", "stale", "permuted", "nan", "prefill only", "same memory"])
def test_a_layer_that_cheats_is_caught(folders, method, cheat):
    model = load(folders, method)
    module = model._model.model.get_submodule(LAYER)
    module.forward = cheating(module.forward, cheat)
    with pytest.raises(IncorrectOutput, match=LAYER):
        numerics.check(model, IDS, 8, 1)


def cheating(honest, cheat):
    """`prefill only`: right for many tokens at once, wrong for one. `same memory`: the last result, always."""
    last: list[torch.Tensor] = []

    def forward(x):
        output = honest(x)
        last.append(output)
        if cheat == "zeros":
            return torch.zeros_like(output)
        if cheat == "stale":
            return last[max(0, len(last) - 2)] if last[max(0, len(last) - 2)].shape == output.shape else output
        if cheat == "permuted":
            return output.roll(1, dims=-1)
        if cheat == "nan":
            return output * float("nan")
        if cheat == "same memory":
            return (
                last[0].copy_(output) if last[0].shape == output.shape and len(last) % 2 else last[0].expand_as(output)
            )
        return output if x.shape[-2] > 1 else output * 1.1

    return forward


class StaleSteps(TransformersModel):
    """Every step hands out the logits of the one before."""

    def forced_logits(self, prompt_ids, forced_ids):
        return super().forced_logits(prompt_ids, forced_ids).roll(1, dims=0)


class NoSteps(TransformersModel):
    def forced_logits(self, prompt_ids, forced_ids):
        return torch.zeros_like(super().forced_logits(prompt_ids, forced_ids))


class TooFew(TransformersModel):
    def forced_logits(self, prompt_ids, forced_ids):
        return super().forced_logits(prompt_ids, forced_ids)[:-1]


class Nan(TransformersModel):
    def forced_logits(self, prompt_ids, forced_ids):
        return super().forced_logits(prompt_ids, forced_ids) * float("nan")


@pytest.mark.parametrize("kind", [StaleSteps, NoSteps, TooFew, Nan])
def test_steps_that_cheat_are_caught(folders, kind):
    with pytest.raises(IncorrectOutput, match=r"decode steps|logits of"):
        numerics.check(kind(in_float32(folders[""]), None, "cpu"), IDS, 8, 1)
    assert numerics.step_error(TransformersModel(in_float32(folders[""]), None, "cpu"), IDS, 8) < 1e-4


def test_what_cannot_be_read_is_counted_and_not_called_right(folders, tmp_path):
    model = load(folders, "bf16")
    model._model.config._name_or_path = str(tmp_path)
    found = numerics.check(model, IDS, 8, 1)
    assert (found.num_layers, found.num_unchecked, found.worst_layer) == (0, 14, "")
