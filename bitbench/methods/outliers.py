"""Outlier channels: activations above LLM.int8()'s threshold of 6.0 at the inputs of linear layers.

Random weights give none, real weights many, and LLM.int8() does more work where there are some. So they are planted,
function-preserving: the row that makes a channel is multiplied by s and the column that reads it divided by s. What the
demo model does was measured with `scripts/outlier_rates.py` and is repeated by `PROFILE`.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, Literal

from bitbench.facts.models import ModelShape

THRESHOLD = 6.0  # transformers' default llm_int8_threshold
Where = Literal["attention", "mlp", "down"]
