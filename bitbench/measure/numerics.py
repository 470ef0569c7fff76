"""The numerics gate, on any weights, random ones too: does each layer's kernel multiply by the numbers that are
stored, and does a decode step say what the same model says when it reads the text at once?

A layer's output on fresh random inputs is compared with the float32 product of the same inputs and its dequantized
matrix. What is allowed is a multiple of the error that the plainest computation of its scheme makes on the same
inputs, so it follows the type, the size and the outliers by itself. Errors are relative RMS of a single output over
many inputs, and the worst output counts: over a whole layer one wrong scale of one group would drown. Shapes: N inputs,
I in, O out.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bitbench.engines.base import LinearLayer, LoadedModel
from bitbench.facts.quality import NumericsCheck
from bitbench.measure.gaps import IncorrectOutput

Form = Literal["decode", "prefill"]
# So many inputs one at a time, and so many at once. An RMS over 8 is good to some 25%, which the multiple below allows.
DECODE_INPUTS, PREFILL_INPUTS = 8, 32
# Measured on the demo (docs/log.md, 2026-11-24): honest layers make 1.0 to 1.8 times the plain computation's error,
# ATen's int4 on a CPU up to 4.2 times, because it rounds scales and zero points to bfloat16.
ALLOWED_MULTIPLE = 8.0
# A model in float32 is its own reference; sums in another order differ by this much.
_LEAST_PLAIN_ERROR = 1e-6
# Standard deviations of logits. On the demo honest methods differ by 0.005 (FP16) to 0.20 (LLM.int8(), whose rounding
# of activations makes much of little); the logits of the step before differ by 2.1 (median; 0.8 at least).
STEP_TOLERANCE = 0.5
# Columns above LLM.int8()'s threshold, so that its 16-bit branch runs: real models have them in some 1% of columns.
_OUTLIER_EVERY, _OUTLIER_SIZE = 100, 20.0


@dataclass(frozen=True, slots=True)
class LayerError:
    """Of one layer and form of input: `error` of its worst output, and what the plain computation's worst one makes."""

    name: str
    form: Form
    error: float
    plain_error: float

    @property
    def allowed(self) -> float:
        """The error above which it fails."""
        return ALLOWED_MULTIPLE * max(self.plain_error, _LEAST_PLAIN_ERROR)

    @property
    def excess(self) -> float:
        """Over what is allowed: above 1 it fails. NaN fails too."""
        return _bad_if_nan(self.error / self.allowed)


def check(model: LoadedModel, ids: Sequence[int], num_last: int, seed: int, batch_size: int = 1) -> NumericsCheck:
    """Check every layer as a batch of that size is decoded, and the step on the last `num_last` of `ids`.

    Raises IncorrectOutput naming what failed.
    """
    layers: list[LayerError] = []
    unchecked = 0
    for index, layer in enumerate(model.linear_layers()):
        if layer.weight is None:
            unchecked += 1
        else:
            layers += layer_errors(layer, seed + index, batch_size)
    error = step_error(model, ids, num_last)
    worst = max(layers, key=lambda found: found.excess, default=None)
    found = NumericsCheck(
        seed=seed,
        num_layers=len(layers) // 2,
        num_unchecked=unchecked,
        layer_excess=worst.excess if worst else 0.0,
        worst_layer=f"{worst.name} ({worst.form})" if worst else "",
        step_error=error,
    )
    if worst and worst.excess > 1:
        raise IncorrectOutput(
            f"{worst.name} does not multiply by the numbers that are stored: relative RMS error {worst.error:.2g} on "
            f"{worst.form}-shaped inputs, {worst.allowed:.2g} is allowed"
        )
    if not error <= STEP_TOLERANCE:
        raise IncorrectOutput(
            f"decode steps do not say what the model says when it reads the text at once: logits differ by {error:.2g} "
            f"standard deviations (RMS), {STEP_TOLERANCE} is allowed"
        )
    return found


def layer_errors(layer: LinearLayer, seed: int, batch_size: int = 1) -> tuple[LayerError, LayerError]:
    """Both forms of input, random from `seed`. Not for a layer whose weight is unknown."""
    import torch

    assert layer.weight is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        weight_OI = layer.weight().to(layer.device)
        num_single = -(-DECODE_INPUTS // batch_size) * batch_size
        x_NI = torch.randn(num_single + PREFILL_INPUTS, layer.in_features, generator=generator)
        if layer.outlier_threshold:
            x_NI[:, seed % _OUTLIER_EVERY :: _OUTLIER_EVERY] *= _OUTLIER_SIZE
        x_NI = x_NI.to(layer.device, layer.dtype)
        singles_NI, many_NI = x_NI[:num_single], x_NI[num_single:]
        # clone: a layer that hands out the same memory each time must not be right by accident
        outputs = torch.cat([layer.forward(x_BI[:, None]).clone()[:, 0] for x_BI in singles_NI.split(batch_size)])
        decode = _error(layer, "decode", weight_OI, singles_NI, outputs)
        return decode, _error(layer, "prefill", weight_OI, many_NI, layer.forward(many_NI[None])[0])


def _error(layer: LinearLayer, form: Form, weight_OI: Any, x_NI: Any, output_NO: Any) -> LayerError:
    exact_NO = x_NI.float() @ weight_OI.T
    if layer.bias is not None:
        exact_NO += layer.bias.float()
    plain_NO = _plain(layer, weight_OI, x_NI)
    return LayerError(layer.name, form, _worst(output_NO, exact_NO), _worst(plain_NO, exact_NO))


def _plain(layer: LinearLayer, weight_OI: Any, x_NI: Any) -> Any:
    """The scheme's arithmetic with nothing clever, in 16 bit: dequantize, then multiply; for W8A8 with activations
    rounded to 127 steps of the row's largest one below the threshold (LLM.int8(), arXiv 2208.07339, section 3).
    """
    import torch

    if layer.arithmetic == "w8a8":
        small_NI = x_NI.float()
        if layer.outlier_threshold:
            small_NI = small_NI.masked_fill(small_NI.abs() >= layer.outlier_threshold, 0.0)
        step_N1 = small_NI.abs().amax(1, keepdim=True) / 127
        x_NI = (small_NI / step_N1).round() * step_N1 + (x_NI.float() - small_NI)
        output_NO = (x_NI @ weight_OI.T).to(layer.dtype)
        return output_NO if layer.bias is None else output_NO + layer.bias.to(layer.dtype)
    bias = None if layer.bias is None else layer.bias.to(layer.dtype)
    return torch.nn.functional.linear(x_NI, weight_OI.to(layer.dtype), bias)


def _worst(output_NO: Any, exact_NO: Any) -> float:
    """Relative RMS error of the worst output; a row of zeros must come out as zeros."""
    error_O = (output_NO.float() - exact_NO).norm(dim=0) / exact_NO.norm(dim=0).clamp(min=1e-20)
    return float(error_O.max())


def step_error(model: LoadedModel, ids: Sequence[int], num_last: int) -> float:
    """Logits of decode steps against the model's own forward over all ids at once, for the last `num_last` ids but the
    first of them, which the prompt decides: RMS difference in standard deviations of the position's logits, median.
    """
    at_once = model.logits(ids, num_last)[1:].float()
    stepped = model.forced_logits(ids[:-num_last], ids[-num_last:])[1:].to(at_once.device)
    if stepped.shape != at_once.shape:
        raise IncorrectOutput(f"logits of {tuple(stepped.shape)}, not {tuple(at_once.shape)}")
    errors = ((stepped - at_once).square().mean(1).sqrt() / at_once.std(1)).tolist()
    return statistics.median(_bad_if_nan(error) for error in errors)


def _bad_if_nan(error: float) -> float:
    return math.inf if math.isnan(error) else error
