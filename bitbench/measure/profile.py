"""Where the time of a decode step and of a prefill goes, in passes apart from timing.

A stage is separated by what it adds: a generation of one token is a prefill, and a generation of 1 + n tokens is the
same and n decode steps. Times come from a pass in which nothing but the device is watched; roles come from a second one
in which the engine runs its modules one by one, each marked. The same work comes in the same order in both, so the
second pass tells what each piece of the first one is for, also inside a CUDA graph, where nothing is launched singly.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitbench.engines.base import LoadedModel
from bitbench.facts.profile import KernelTime, Role, RoleTime, Stage, StageProfile, SyncKind
from bitbench.measure.attribution import operator_times, roles_of_work
from bitbench.measure.roles import role_of_compiled
from bitbench.measure.trace import ProfilerRefused, Trace, record, union_s

_TIMED_STEPS = 8
_ROLE_STEPS = 2
_NUM_COSTLIEST = 12
_SYNCS: dict[str, SyncKind] = {
    "cudaStreamSynchronize": "stream",
    "cuStreamSynchronize": "stream",
    "cudaEventSynchronize": "event",
    "cuEventSynchronize": "event",
    "cudaDeviceSynchronize": "device",
    "cuCtxSynchronize": "device",
    "cudaMemcpy": "blocking_copy",
    "cuMemcpyDtoH_v2": "blocking_copy",
    "cuMemcpyHtoD_v2": "blocking_copy",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """One kernel, copy, fill or (on a CPU) operator with its time; `role` once it is known."""

    name: str
    duration_s: float
    role: Role = "unattributed"


@dataclass(frozen=True, slots=True)
class Needs:
    """What one step of a stage must read and compute at the least, by role where that is known."""

    bytes_by_role: dict[Role, int]
    flops: int


def take(model: LoadedModel, device: str, ids: Sequence[Sequence[int]]) -> tuple[StageProfile, StageProfile]:
    """Profiles of a decode step and a prefill of this batch, [batch][prompt_len]. The model must be warm.

    Where the profiler is refused, both say so in `note` and hold nothing else.
    """
    try:
        return _on_device(model, device, ids) if device.startswith("cuda") else _on_cpu(model, device, ids)
    except ProfilerRefused as error:
        return nothing(ids, str(error))


def nothing(ids: Sequence[Sequence[int]], note: str) -> tuple[StageProfile, StageProfile]:
    """Profiles that only say why there are none."""
    empty = StageProfile(stage="decode", source="none", num_steps=0, prompt_len=len(ids[0]), note=note)
    return empty, empty.model_copy(update={"stage": "prefill"})


def kernel_names(model: LoadedModel, device: str, ids: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Names of the kernels of a prefill and three decode steps, costliest first; none where no GPU is seen."""
    if not device.startswith("cuda"):
        return ()
    try:
        trace = _generate(model, device, ids, 4, operators=False)
    except ProfilerRefused:
        return ()
    seconds: dict[str, float] = defaultdict(float)
    for item in trace.work:
        seconds[item.name] += item.duration_s
    return tuple(sorted(seconds, key=lambda name: -seconds[name]))


def _on_device(model: LoadedModel, device: str, ids: Sequence[Sequence[int]]) -> tuple[StageProfile, StageProfile]:
    one, many = (_generate(model, device, ids, n, operators=False) for n in (1, 1 + _TIMED_STEPS))
    with model.annotated():
        model.generate(ids, 1 + _ROLE_STEPS, None)  # what compiles or caches does so here
        marked_one, marked_many = (_generate(model, device, ids, n, operators=True) for n in (1, 1 + _ROLE_STEPS))
    roles_one, roles_many = roles_of_work(marked_one), roles_of_work(marked_many)
    first, steps = added([w.name for w in one.work], [w.name for w in many.work])
    marked_first, marked_steps = added([w.name for w in marked_one.work], [w.name for w in marked_many.work])
    decode = with_roles(
        [Piece(w.name, w.duration_s) for w in many.work[first:steps]],
        [(w.name, r) for w, r in zip(marked_many.work, roles_many, strict=True)][marked_first:marked_steps],
    )
    prefill = with_roles(
        [Piece(w.name, w.duration_s) for w in one.work],
        [(w.name, r) for w, r in zip(marked_one.work, roles_one, strict=True)],
    )
    return (
        _profile("decode", model, ids, decode, _TIMED_STEPS).model_copy(
            update={
                "wall_s": _wall_added(one, many, _TIMED_STEPS),
                "busy_s": union_s(many.work[first:steps]) / _TIMED_STEPS,
                "syncs": _syncs_added(one, many, _TIMED_STEPS),
            }
        ),
        _profile("prefill", model, ids, prefill, 1).model_copy(
            update={"wall_s": one.wall_s, "busy_s": union_s(one.work), "syncs": _syncs_added(None, one, 1)}
        ),
    )


def _on_cpu(model: LoadedModel, device: str, ids: Sequence[Sequence[int]]) -> tuple[StageProfile, StageProfile]:
    with model.annotated():
        model.generate(ids, 1 + _ROLE_STEPS, None)
        one, many = (_generate(model, device, ids, n, operators=True) for n in (1, 1 + _ROLE_STEPS))
    prefill = [Piece(name, seconds, role) for name, role, seconds in operator_times(one)]
    everything = [Piece(name, seconds, role) for name, role, seconds in operator_times(many)]
    first, steps = added([p.name for p in prefill], [p.name for p in everything])
    decode = everything[first:steps]
    return (
        _profile("decode", model, ids, decode, _ROLE_STEPS).model_copy(
            update={
                "source": "operators",
                "wall_s": _wall_added(one, many, _ROLE_STEPS),
                "busy_s": sum(p.duration_s for p in decode) / _ROLE_STEPS,
            }
        ),
        _profile("prefill", model, ids, prefill, 1).model_copy(
            update={"source": "operators", "wall_s": one.wall_s, "busy_s": sum(p.duration_s for p in prefill)}
        ),
    )


def _generate(model: LoadedModel, device: str, ids: Sequence[Sequence[int]], output_len: int, operators: bool) -> Trace:
    def run() -> None:
        model.generate(ids, output_len, None)
        model.synchronize()

    return record(run, device, operators)


def added(fewer: Sequence[str], more: Sequence[str]) -> tuple[int, int]:
    """Where in `more` lies what it has beyond `fewer`: both begin alike and end alike."""
    start = 0
    while start < len(fewer) and start < len(more) and fewer[start] == more[start]:
        start += 1
    extra = max(0, len(more) - len(fewer))
    return start, start + extra


def with_roles(pieces: Sequence[Piece], marked: Sequence[tuple[str, Role]]) -> list[Piece]:
    """The pieces with the roles of a marked pass, whose names and order tell which is which.

    Both hold whole numbers of steps. The pieces of one name have, one after another, the roles that this name has in
    the marked pass, around and around: where a step is the same each time, that is the role of each one's place, and
    where single kernels are chosen differently (by alignment or length) only those are off. A kernel that only a
    compiler can have written has the role of what it says it fused; the rest is unattributed.
    """
    known: dict[str, list[Role]] = defaultdict(list)
    for name, role in marked:
        known[name].append(role)
    met: Counter[str] = Counter()
    found = []
    for piece in pieces:
        roles = known.get(piece.name) or [role_of_compiled(piece.name) or "unattributed"]
        found.append(Piece(piece.name, piece.duration_s, roles[met[piece.name] % len(roles)]))
        met[piece.name] += 1
    return found


def _profile(
    stage: Stage, model: LoadedModel, ids: Sequence[Sequence[int]], pieces: Sequence[Piece], num_steps: int
) -> StageProfile:
    needs = _needs(stage, model, ids)
    num_bytes = sum(needs.bytes_by_role.values())
    return StageProfile(
        stage=stage,
        source="device",
        num_steps=num_steps,
        prompt_len=len(ids[0]),
        num_kernels=len(pieces) / num_steps,
        roles=tuple(_role_times(pieces, num_steps, {**needs.bytes_by_role, "whole_step": num_bytes})),
        kernels=tuple(_costliest(pieces, num_steps)),
        bytes_read=num_bytes,
        flops=needs.flops,
    )


def _needs(stage: Stage, model: LoadedModel, ids: Sequence[Sequence[int]]) -> Needs:
    """The weights once for the whole batch, keys and values once for each sequence; two operations for each weight of
    a matrix and token (attention's own, small at these lengths, are left out), lm_head for one token of a prompt.
    """
    batch, prompt_len = len(ids), len(ids[0])
    tokens = prompt_len if stage == "prefill" else 1
    context = 0 if stage == "prefill" else prompt_len + _TIMED_STEPS // 2
    size = model.matrices()
    layers = model.weights_bytes() - model.unread_embedding_bytes() - size.head_bytes
    needed: dict[Role, int] = {
        "projections": layers,
        "lm_head": size.head_bytes,
        "attention": model.kv_bytes_per_token() * context * batch,
    }
    return Needs(needed, 2 * batch * (tokens * size.layer_elements + size.head_elements))


def _role_times(pieces: Sequence[Piece], num_steps: int, needed: dict[Role, int]) -> Iterable[RoleTime]:
    seconds: dict[Role, float] = defaultdict(float)
    counts: Counter[Role] = Counter()
    for piece in pieces:
        seconds[piece.role] += piece.duration_s / num_steps
        counts[piece.role] += 1
    for role in sorted(seconds, key=lambda r: -seconds[r]):
        yield RoleTime(
            role=role, busy_s=seconds[role], num_kernels=counts[role] / num_steps, bytes_read=needed.get(role)
        )


def _costliest(pieces: Sequence[Piece], num_steps: int) -> Iterable[KernelTime]:
    seconds: dict[tuple[str, Role], float] = defaultdict(float)
    counts: Counter[tuple[str, Role]] = Counter()
    for piece in pieces:
        seconds[piece.name, piece.role] += piece.duration_s / num_steps
        counts[piece.name, piece.role] += 1
    for name, role in sorted(seconds, key=lambda key: -seconds[key])[:_NUM_COSTLIEST]:
        yield KernelTime(name=name, role=role, num_launches=counts[name, role] / num_steps, busy_s=seconds[name, role])


def _wall_added(fewer: Trace, more: Trace, num_steps: int) -> float | None:
    """Seconds a step; None where other load on the host made the shorter run the longer one."""
    seconds = (more.wall_s - fewer.wall_s) / num_steps
    return seconds if seconds > 0 else None


def _syncs_added(fewer: Trace | None, more: Trace, num_steps: int) -> dict[SyncKind, float]:
    """Waits of the host per step, by kind. The profiled function's own last synchronisation is not one of them."""
    counts = _count_syncs(more)
    if fewer is None:
        counts["device"] -= 1
    else:
        counts.subtract(_count_syncs(fewer))
    return {kind: number / num_steps for kind, number in counts.items() if number > 0}


def _count_syncs(trace: Trace) -> Counter[SyncKind]:
    return Counter(_SYNCS[call.name] for call in trace.runtime if call.name in _SYNCS)
