"""The raw samples a worker leaves behind. Statistics are computed when they are read, never here."""

from bitbench.facts.frozen import Frozen


class PromptSample(Frozen):
    """One generation call: a batch of prompts, timed on the host; `itl_s` by the clock that the record names.

    Times are seconds; `started_s` is CLOCK_MONOTONIC, which all processes of one machine share.
    `total_s` runs from submission to the end of a device-wide synchronisation, so work that an engine
    leaves running on another stream is counted.
    """

    prompt_index: int
    warmup: bool
    batch_size: int
    prompt_len: int
    output_len: int
    started_s: float
    ttft_s: float
    itl_s: tuple[float, ...]
    total_s: float

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (end-to-end - TTFT) / (output_len - 1); None for one token."""
        if self.output_len < 2:
            return None
        return (self.total_s - self.ttft_s) / (self.output_len - 1)


class Memory(Frozen):
    """Bytes at three moments; unknown is None. On a GPU the allocator's figures, on a CPU the resident set.

    `weights_bytes`: distinct storages that hold weights, quantization state included.
    `allocated_after_load_bytes`: after load, in a process that loaded nothing else.
    `load_peak_bytes`: the maximum while loading. `peak_memory_bytes`: the maximum over the measured window.
    `kv_cache_bytes`: keys and values at the end of the last prompt.
    """

    source: str
    weights_bytes: int | None = None
    allocated_after_load_bytes: int | None = None
    load_peak_bytes: int | None = None
    peak_memory_bytes: int | None = None
    kv_cache_bytes: int | None = None


LOOK_PERIOD_S = 0.5
"""From one look at a device to the next. A look is seven NVML calls, 3.8 ms on an H200: twenty a second cost an eager
engine 1% (docs/log.md).
"""


class PowerSample(Frozen):
    """One look at the device from outside the worker. Unknown is None.

    `energy_j` is a running counter (NVML total energy, or RAPL on a CPU): only differences mean something.
    `throttle_reasons` are NVML's names of the reasons that slow a busy GPU (idle is not one).
    """

    at_s: float
    energy_j: float | None = None
    power_w: float | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_c: float | None = None
    throttle_reasons: tuple[str, ...] = ()


class Bandwidth(Frozen):
    """Read bandwidth at one working-set size: bytes read over and over, and how fast the best loop read them."""

    working_set_bytes: int
    bytes_per_s: float
    method: str


UNTUNED = "untuned"
"""How the name of our own Triton kernels ends where not all of their block sizes were measured on such a GPU."""


class KernelReport(Frozen):
    """What really multiplied: module classes of the projections with their number, device kernel names, and of a kernel
    of our own the hash of its source.
    """

    name: str
    module_classes: dict[str, int]
    kernel_names: tuple[str, ...] = ()
    source: str | None = None


class TokenCheck(Frozen):
    """Whether the engine's tokens are what its own model says on a plain forward pass over prompt and output.

    `num_agreeing` counts positions whose token is the argmax or within `tolerance` standard deviations of the logits
    below it. `first_tokens` are kept so that runs can be compared. `num_agreeing_eager`, where those were too few: of
    the tokens that eager transformers chooses step by step after the same ones.
    """

    num_positions: int
    num_agreeing: int
    tolerance: float
    first_tokens: tuple[int, ...]
    num_agreeing_eager: int | None = None
