"""What runs inside one process: read a task, do it, say what happened, leave. `python -m bitbench.worker FD < task`.

Events go to the file descriptor named on the command line, one JSON object a line; standard output and error belong to
the libraries and are kept by the runner as the log.
"""

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitbench import comparing
from bitbench.engines.base import LoadedModel
from bitbench.engines.registry import engine as find_engine
from bitbench.facts import costs
from bitbench.facts.errors import LoadError, OutOfMemory, Unsupported
from bitbench.facts.messages import (
    TASK,
    BandwidthMeasured,
    BandwidthTask,
    Compared,
    Event,
    Finished,
    Loaded,
    MeasureTask,
    Prepared,
    PrepareTask,
    Progress,
    QualityTask,
    ReferenceTask,
    Sampled,
    Task,
)
from bitbench.facts.samples import Bandwidth, Memory, PromptSample, TokenCheck
from bitbench.facts.status import Flag, Status
from bitbench.facts.workloads import parse_workload
from bitbench.measure import gate, profile
from bitbench.measure.gaps import IncorrectOutput
from bitbench.measure.matmul_rate import matmul_flops_per_s
from bitbench.measure.memory import Meter, meter
from bitbench.measure.node_gap import node_gap_s
from bitbench.measure.session import Session
from bitbench.methods.registry import parse_method

Send = Callable[[Event], None]
_PR_SET_PDEATHSIG = 1  # prctl(2)
_FAILURES: tuple[tuple[type[Exception], Status], ...] = (
    (OutOfMemory, "out_of_memory"),
    (LoadError, "load_error"),
    (Unsupported, "unsupported"),
    (IncorrectOutput, "incorrect"),
)


def measure(task: MeasureTask, send: Send) -> Finished:
    """Load one cell and measure its prompts."""
    choice = parse_method(f"{task.method}:{task.kernel}" if task.kernel else task.method)
    workload = parse_workload(task.workload)
    engine = find_engine(task.engine)
    send(Progress(stage="load", detail=task.checkpoint.origin))
    watched = meter(task.device)
    watched.reset_peak()
    began = time.monotonic()
    model = engine.load(task.checkpoint, choice, task.device, task.trust_remote_code)
    model.synchronize()
    load_s = time.monotonic() - began
    after_load, load_peak = watched.used_bytes(), watched.peak_bytes()
    session = Session(
        model,
        workload,
        task.prompt_indices,
        watched,
        lambda event: send(Sampled(sample=event) if isinstance(event, PromptSample) else event),
        task.deadline_s,
        task.warmup_output_len,
        task.settle_s,
    )
    send(_loaded(session, task, load_s))
    if task.gate is not None:
        _pass_gate(session, task, send)
    token_check = session.run()
    assert (model.step_times_s() is None) == (engine.itl_clock == "host"), "the record would name the wrong clock"
    memory = _memory(model, watched, after_load, load_peak, watched.peak_bytes())
    looked_into = _look_into(session, task, send)
    return Finished(
        status="ok",
        flags=_flags(session, token_check),
        memory=memory,
        token_check=token_check,
        window_s=session.window_s,
        **looked_into,
    )


def _flags(session: Session, tokens: TokenCheck) -> tuple[Flag, ...]:
    """What the session found doubtful and not wrong."""
    found: dict[Flag, bool] = {"unstable": not session.stable, "noisy_tokens": tokens.num_agreeing_eager is not None}
    return tuple(flag for flag, holds in found.items() if holds)


def _pass_gate(session: Session, task: MeasureTask, send: Send) -> None:
    """Right before fast. Raises IncorrectOutput."""
    assert task.gate is not None
    stored = Path(task.gate.stored) if task.gate.stored else None
    prompt = session.prompt_ids(task.prompt_indices[0])[0]
    began, cpu_began = time.monotonic(), time.process_time()
    found = gate.check(
        session.model,
        prompt,
        seed=task.gate.seed,
        stored=stored,
        device=task.device,
        report=send,
        batch_size=session.workload.batch_size,
    )
    send(Compared(quality=found, wall_s=time.monotonic() - began, cpu_s=time.process_time() - cpu_began))


def _look_into(session: Session, task: MeasureTask, send: Send) -> dict[str, Any]:
    """What kernels run and where the time goes: fields of Finished, found in the first process of a cell only.

    It comes after everything was measured, so nothing that goes wrong here may cost the measurement.
    """
    if task.process_index or task.device == "fake":
        return {}
    model, ids = session.model, session.prompt_ids(task.prompt_indices[0])
    names = profile.kernel_names(model, task.device, ids)
    if not task.profile:
        return {"kernel_names": names}
    send(Progress(stage="profile", detail="where a step's time goes"))
    try:
        profiles = profile.take(model, task.device, ids)
        gap = node_gap_s(task.device) if model.step_times_s() is not None else None
    except Exception as error:  # noqa: BLE001 libraries raise anything; what was measured is kept
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        profiles = profile.nothing(ids, f"the profiled pass failed: {type(error).__name__}: {first}")
        gap = None
    return {"kernel_names": names, "profiles": profiles, "node_gap_s": gap}


def _loaded(session: Session, task: MeasureTask, load_s: float) -> Loaded:
    model, workload = session.model, session.workload
    prompt_lens = [len(session.prompt_ids(index)[0]) for index in task.prompt_indices]
    context = costs.mean_decode_context(sum(prompt_lens) / len(prompt_lens), workload.output_len)
    return Loaded(
        load_s=load_s,
        kernel=model.kernels(workload.batch_size),
        bytes_per_step=costs.bytes_per_step(
            model.weights_bytes(),
            model.unread_embedding_bytes(),
            model.kv_bytes_per_token(),
            context,
            workload.batch_size,
        ),
        weights_bytes=model.weights_bytes(),
        dtype=model.dtype(),
        cuda_version=_cuda_version(task.device),
    )


def _cuda_version(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return str(torch.version.cuda)


def _memory(
    model: LoadedModel, watched: Meter, after_load: int | None, load_peak: int | None, peak: int | None
) -> Memory:
    return Memory(
        source=watched.source,
        weights_bytes=model.weights_bytes(),
        allocated_after_load_bytes=after_load,
        load_peak_bytes=load_peak,
        peak_memory_bytes=peak,
        kv_cache_bytes=model.kv_cache_bytes(),
    )


def prepare(task: PrepareTask, send: Send) -> Finished:
    """Make sure that a checkpoint is on disk."""
    from bitbench.methods.checkpoint import prepare as make

    send(Prepared(checkpoint=make(task, send)))
    return Finished(status="ok")


def bandwidth(task: BandwidthTask, send: Send) -> Finished:
    """Measure read bandwidth and the rate of matrix products."""
    rate = None
    if task.device == "fake":
        from bitbench.engines.fake import BANDWIDTH_BYTES_PER_S

        rows = tuple(
            Bandwidth(working_set_bytes=n, bytes_per_s=BANDWIDTH_BYTES_PER_S, method="scripted")
            for n in task.working_set_bytes
        )
    else:
        from bitbench.measure.bandwidth import measure as measure_bandwidth

        rows = measure_bandwidth(task.device, task.working_set_bytes, send)
        rate = matmul_flops_per_s(task.device)
    send(BandwidthMeasured(bandwidths=rows, matmul_flops_per_s=rate))
    return Finished(status="ok")


def _do(task: Task, send: Send) -> Finished:
    """By the kind of task."""
    match task:
        case PrepareTask():
            return prepare(task, send)
        case BandwidthTask():
            return bandwidth(task, send)
        case ReferenceTask():
            return comparing.store_reference(task, send)
        case QualityTask():
            return comparing.compare(task, send)
        case MeasureTask():
            return measure(task, send)


def answer(text: str, send: Send) -> Finished:
    """Do the task and turn what went wrong into a status. The traceback goes to the log."""
    try:
        return _do(TASK.validate_json(text), send)
    except tuple(kind for kind, _ in _FAILURES) as error:
        traceback.print_exc()
        status = next(status for kind, status in _FAILURES if isinstance(error, kind))
        return Finished(status=status, reason=str(error))
    except Exception as error:  # noqa: BLE001 a worker's last word must come, whatever a library raises
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        return Finished(status="runtime_error", reason=f"{type(error).__name__}: {first}")


def main() -> None:
    """Read the task from standard input, write events to the descriptor given."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides what Ctrl-C means
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive the runner
    events = os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8")

    def send(event: Event) -> None:
        events.write(event.model_dump_json() + "\n")

    send(answer(sys.stdin.read(), send))
    events.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # libraries' exit handlers can crash or hang; everything worth keeping has been sent


if __name__ == "__main__":
    main()
