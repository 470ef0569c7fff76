"""The cache of a static step: nothing is done a layer but writing keys and values."""

import pytest
import torch

from bitbench.engines.static_cache import Places, static_cache
from bitbench.engines.static_step import StaticStepper
from tests.engines.counted import Counted
from tests.engines.tiny import in_float32, prompt_ids, write_tiny


def step_operations(folder, layers):
    model = in_float32(write_tiny(folder, num_hidden_layers=layers))
    stepper = StaticStepper(model, 1, 32)
    stepper.start(torch.tensor(prompt_ids(9)))
    with Counted() as counting:
        stepper.step()
    return counting.calls


def test_a_layer_of_a_step_counts_no_positions(tmp_path):
    few, many = (step_operations(tmp_path / str(n), n) for n in (2, 5))
    assert many["index_copy_"] - few["index_copy_"] == 3 * 2
    for name in ("arange", "add_"):
        assert many[name] == few[name], name


def test_keys_and_values_lie_where_they_are_told_to(tmp_path):
    config = in_float32(write_tiny(tmp_path)).config
    places = Places()
    layer = static_cache(config, 8, places).layers[1]
    new = torch.arange(1.0, 4.0)[None, None, :, None].expand(1, 2, 3, 16)
    for at in ([0, 1, 2], [5, 3, 4]):
        places.next = torch.tensor(at)
        keys, values = layer.update(new, -new)
    assert keys[0, 1, :, 7].tolist() == [1, 2, 3, 2, 3, 1, 0, 0]
    assert torch.equal(values, -keys)


@pytest.mark.parametrize("prompts", [(20, 7, 13)])
def test_a_cache_used_again_gives_what_a_fresh_one_gives(tmp_path, prompts):
    model = in_float32(write_tiny(tmp_path))
    again = StaticStepper(model, 1, 48)
    for length in prompts:
        outputs = []
        for stepper in (again, StaticStepper(model, 1, 48)):
            stepper.start(torch.tensor(prompt_ids(length, seed=length)))
            for _ in range(9):
                stepper.step()
            outputs.append(stepper.output(length, 10))
        assert outputs[0] == outputs[1]
