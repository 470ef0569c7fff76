"""What a profiled pass leaves behind: where the time of one decode step, or of one prefill, goes."""

from typing import Literal

from pydantic import Field

from bitbench.facts.frozen import Frozen

Stage = Literal["decode", "prefill"]
Role = Literal[
    "projections",
    "attention",
    "elementwise",
    "quantize",
    "dequantize",
    "copies",
    "lm_head",
    "sampling",
    "whole_step",
    "unattributed",
]
"""What a piece of work is for. `projections`: products with the layers' weights. `attention`: scores and values.
`elementwise`: norms, activations, residuals, rotary positions. `quantize` and `dequantize`: of activations, of weights
and of integer sums. `copies`: moving without computing, the KV cache included. `sampling`: choosing the token and what
the engine does for each token outside the model. `whole_step`: a kernel that does all of that. `unattributed`: launched
from nowhere known.
"""
ModuleRole = Literal["projections", "lm_head", "attention", "norm", "elementwise", "embedding", "model", "step"]
"""What engines call a module in an annotation of a profile. `attention` is the module around the projections and
scores, `model` the whole forward pass, in which what no inner module does belongs to residuals, masks and positions,
`step` the launch of a kernel that takes whole steps.
"""
LABEL_PREFIX = "bitbench:"
"""Such annotations are named so, and then by the module's role."""
SyncKind = Literal["stream", "event", "device", "blocking_copy"]
"""Ways in which the host waits for a GPU: cudaStreamSynchronize, cudaEventSynchronize, cudaDeviceSynchronize, and a
copy that returns only when it is done.
"""


class RoleTime(Frozen):
    """All work of one role in a step: seconds of kernels (or of CPU operators), their number, and the bytes that must
    be read from memory for it at the least; bytes are None where no lower bound is known.
    """

    role: Role
    busy_s: float
    num_kernels: float
    bytes_read: int | None = None


class KernelTime(Frozen):
    """One kernel (on a CPU: one operator) by name and role: launches and seconds a step."""

    name: str
    role: Role
    num_launches: float
    busy_s: float


class StageProfile(Frozen):
    """One stage of one cell, profiled apart from timing, averaged over `num_steps` steps (prefills: prompts).

    `source`: `device` where kernel times come from the GPU, `operators` where they are CPU operators' own times,
    `none` where profiling was not permitted; `note` then says what is missing and why. `wall_s` is the step's time
    under the profiler, which slows the host: shares of a step are taken of the TPOT (TTFT) measured without it.
    `busy_s` is the union of kernel intervals, so kernels that overlap count once (on a CPU the operators' own times);
    `roles` and `kernels` are sums.
    `kernels` holds the costliest, `num_kernels` counts all. `bytes_read` must be read in a step at the least, `flops`
    must be computed (two for a multiplication and its addition).
    """

    stage: Stage
    source: Literal["device", "operators", "none"]
    num_steps: int
    prompt_len: int
    wall_s: float | None = None
    busy_s: float | None = None
    num_kernels: float | None = None
    syncs: dict[SyncKind, float] = Field(default_factory=dict)
    roles: tuple[RoleTime, ...] = ()
    kernels: tuple[KernelTime, ...] = ()
    bytes_read: int | None = None
    flops: int | None = None
    note: str = ""

    @property
    def num_syncs(self) -> float | None:
        """Times a step in which the host waits for the GPU; None where that could not be seen."""
        return sum(self.syncs.values()) if self.source == "device" else None

    @property
    def unattributed(self) -> float | None:
        """Share of the kernels' time whose launcher is not known."""
        total = sum(r.busy_s for r in self.roles)
        return sum(r.busy_s for r in self.roles if r.role == "unattributed") / total if total else None
