"""Turns what was heard of a worker into a record."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psutil

from bitbench.engines.registry import engine
from bitbench.facts.messages import Checkpoint, Compared, Event, Finished, Loaded, Sampled
from bitbench.facts.samples import Bandwidth, PowerSample, PromptSample
from bitbench.facts.scheme import Scheme, w4a16
from bitbench.facts.status import Flag
from bitbench.measure.energy import energy_between, throttled_between
from bitbench.measure.power import PowerWatch
from bitbench.methods.registry import Method
from bitbench.results.record import Record
from bitbench.runner.ceiling import nearest
from bitbench.runner.plan import Plan, PlannedCell
from bitbench.runner.process import Outcome
from bitbench.runner.schedule import CellState

# Other programs that use more than a tenth of the machine's cores move a host-bound step by more than its usual spread.
_BUSY_HOST_SHARE = 0.1


@dataclass(slots=True)
class Heard:
    """What a measuring worker said."""

    loaded: Loaded | None = None
    gate: Compared | None = None
    samples: list[PromptSample] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Keep what belongs in the record."""
        if isinstance(event, Loaded):
            self.loaded = event
        elif isinstance(event, Compared):
            self.gate = event
        elif isinstance(event, Sampled):
            self.samples.append(event.sample)


def busy_share() -> Callable[[Outcome], float]:
    """Start watching; the function returned says which share of the machine's cores other programs used meanwhile."""
    began, mine = _busy_cpu_s(), _own_cpu_s()

    def share(outcome: Outcome) -> float:
        others = (_busy_cpu_s() - began) - (_own_cpu_s() - mine)
        return max(0.0, others) / (outcome.wall_s * (psutil.cpu_count() or 1))

    return share


def _busy_cpu_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def _own_cpu_s() -> float:
    return sum(os.times()[:4])


@dataclass(slots=True)
class Recorder:
    """Makes the records of one run. `bandwidths` and `matmul_flops_per_s` are filled in once they are measured."""

    run_id: str
    plan: Plan
    bandwidths: tuple[Bandwidth, ...] = ()
    matmul_flops_per_s: float | None = None

    def measured(  # noqa: PLR0917
        self,
        state: CellState,
        checkpoint: Checkpoint,
        heard: Heard,
        outcome: Outcome,
        watch: PowerWatch,
        others_share: float,
        note: str = "",
    ) -> Record:
        """The record of a measuring worker, however it ended; `note` is added to the checkpoint's."""
        finished, loaded = outcome.finished, heard.loaded
        ok = finished.status == "ok"
        samples = tuple(s for s in heard.samples if ok or s.warmup)
        power = tuple(watch.samples(outcome.started_s))
        tokens = sum(s.batch_size * s.output_len for s in samples if not s.warmup)
        energy = energy_between(power, *finished.window_s) if finished.window_s else None
        return Record(
            **self._fields(state, finished, checkpoint)
            | {
                "notes": (*checkpoint.notes, note) if note else checkpoint.notes,
                "gate": heard.gate.quality if heard.gate else None,
                "gate_s": heard.gate.wall_s if heard.gate else None,
                "flags": _flags(finished, power, others_share) if ok else (),
                "samples": samples,
                "memory": finished.memory,
                "token_check": finished.token_check,
                "power": _window(power, finished),
                "energy_j": energy,
                "energy_tokens": tokens if energy is not None else None,
                "profiles": finished.profiles,
                "node_gap_s": finished.node_gap_s,
                "matmul_flops_per_s": self.matmul_flops_per_s,
                "process_s": outcome.wall_s,
            }
            | (self._loaded_fields(loaded, finished) if loaded else {})
        )

    def failed(self, state: CellState, finished: Finished) -> Record:
        """The record of a process that was never measured."""
        return Record(**self._fields(state, finished, None))

    def _loaded_fields(self, loaded: Loaded, finished: Finished) -> dict[str, Any]:
        return {
            "dtype": loaded.dtype,
            "kernel": loaded.kernel.model_copy(update={"kernel_names": finished.kernel_names}),
            "bytes_per_step": loaded.bytes_per_step,
            "bandwidth": nearest(self.bandwidths, loaded.bytes_per_step),
            "load_s": loaded.load_s,
        }

    def _fields(self, state: CellState, finished: Finished, checkpoint: Checkpoint | None) -> dict[str, Any]:
        cell, workload = state.planned.cell, self.plan.request.workload
        return {
            **process_fields(self.run_id, self.plan, state.planned, finished, checkpoint),
            "cell": cell,
            "process_index": state.next_index,
            "itl_clock": engine(cell.engine).itl_clock,
            "batch_size": workload.batch_size,
            "output_len": workload.output_len,
        }


def process_fields(
    run_id: str, plan: Plan, planned: PlannedCell, finished: Finished, checkpoint: Checkpoint | None
) -> dict[str, Any]:
    """Those of `ProcessRecord` that are known of every process, however it ended."""
    scheme = scheme_of(planned.choice.method, checkpoint)
    return {
        "run_id": run_id,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": finished.status,
        "reason": finished.reason,
        "environment": plan.environment,
        "model_title": checkpoint.title if checkpoint else "",
        "checkpoint_hash": checkpoint.content_hash if checkpoint else "",
        "checkpoint_origin": checkpoint.origin if checkpoint else "",
        "notes": checkpoint.notes if checkpoint else (),
        "scheme": scheme.name,
        "weight_bits": scheme.weight_bits,
    }


def scheme_of(method: Method, checkpoint: Checkpoint | None) -> Scheme:
    """The method's, with the group size that its checkpoint really has."""
    if method.family == "awq" and checkpoint is not None and checkpoint.group_size:
        return w4a16(checkpoint.group_size, method.scheme.lm_head_bits)
    return method.scheme


def _flags(finished: Finished, power: tuple[PowerSample, ...], others_share: float) -> tuple[Flag, ...]:
    flags: list[Flag] = list(finished.flags)
    if finished.window_s and throttled_between(power, *finished.window_s):
        flags.append("throttled")
    if others_share > _BUSY_HOST_SHARE:
        flags.append("busy_host")
    return tuple(flags)


def _window(power: tuple[PowerSample, ...], finished: Finished) -> tuple[PowerSample, ...]:
    """The samples of the measured window and one on each side; what was read before tells nothing of the speed."""
    if finished.window_s is None:
        return ()
    start, end = finished.window_s
    inside = [i for i, sample in enumerate(power) if start <= sample.at_s <= end]
    return power[max(0, inside[0] - 1) : inside[-1] + 2] if inside else ()
