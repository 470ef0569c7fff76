"""Engines that cheat, for tests of the gate: honest eager transformers but for one thing, named by `CHEAT`."""

from typing import Any

import torch

from bitbench.engines.transformers import TransformersEngine, TransformersModel
from bitbench.facts.messages import Checkpoint
from bitbench.methods.registry import MethodChoice

CHEAT = ""
LAYER = "layers.1.mlp.down_proj"


class CheatingModel(TransformersModel):
    """`zeros`, `last step` and `permuted weight` are in what it says, `wrong scale` in one group of one layer."""

    def generate(self, ids, output_len, on_token):
        """Tokens are those of its own broken model, so that the check of tokens finds nothing wrong with them."""
        if CHEAT in ("zeros", "last step"):
            prompt, new = list(ids[0]), []
            for _ in range(output_len):
                new.append(int(super().logits([*prompt, *new, 0], 1).argmax()))
                if on_token:
                    on_token()
            return [new for _ in ids]
        return super().generate(ids, output_len, on_token)

    def forced_logits(self, prompt_ids, forced_ids):
        honest = super().forced_logits(prompt_ids, forced_ids)
        if CHEAT == "zeros":
            return torch.zeros_like(honest)
        return honest.roll(1, dims=0) if CHEAT == "last step" else honest


class CheatingEngine(TransformersEngine):
    name = "cheat"

    def load(self, checkpoint: Checkpoint, choice: MethodChoice, device: str, trust_remote_code: bool) -> Any:
        honest = super().load(checkpoint, choice, device, trust_remote_code)
        spoil(honest._model)
        return CheatingModel(honest._model, None, device)


def spoil(model: Any) -> None:
    """What is wrong with the weights in memory."""
    with torch.inference_mode():
        if CHEAT == "permuted weight":
            head = model.lm_head.weight
            model.lm_head.weight.copy_(head.roll(7, dims=0))
        if CHEAT == "wrong scale":
            model.model.get_submodule(LAYER).scales[1, 5] *= 1.5


ENGINE = CheatingEngine
