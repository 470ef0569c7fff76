"""Which module and operators launched a piece of work: by the moment and the thread of its launch."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from bitbench.facts.profile import LABEL_PREFIX, Role
from bitbench.measure.roles import role_of
from bitbench.measure.trace import HostEvent, Trace

Stack = tuple[HostEvent, ...]


def roles_of_work(trace: Trace) -> list[Role]:
    """The role of each piece of device work, in the trace's order. Without its launch it is unattributed."""
    launches = {id(w.launch): w.launch for w in trace.work if w.launch is not None}
    found = dict(_stacks(trace.host, launches.values()))
    return [role_of_stack(found.get(id(w.launch), ())) for w in trace.work]


def role_of_stack(stack: Stack) -> Role:
    """The role that the innermost of our annotations, and the operators inside it, give."""
    module: str | None = None
    operators: list[str] = []
    for event in stack:
        if event.name.startswith(LABEL_PREFIX):
            module, operators = event.name.removeprefix(LABEL_PREFIX), []
        else:
            operators.append(event.name)
    return role_of(module, operators)


def _stacks(host: Sequence[HostEvent], moments: Iterable[HostEvent]) -> Iterator[tuple[int, Stack]]:
    """For each runtime call: the host events of its thread that enclose its start, outermost first."""
    threads: dict[str, list[HostEvent]] = defaultdict(list)
    for event in host:
        threads[event.thread].append(event)
    waiting: dict[str, list[HostEvent]] = defaultdict(list)
    for moment in moments:
        waiting[moment.thread].append(moment)
    for thread, calls in waiting.items():
        yield from _stacks_of_thread(threads[thread], sorted(calls, key=lambda c: c.start_s))


def _stacks_of_thread(events: Sequence[HostEvent], calls: Sequence[HostEvent]) -> Iterator[tuple[int, Stack]]:
    stack: list[HostEvent] = []
    position = 0
    for call in calls:
        while position < len(events) and events[position].start_s <= call.start_s:
            _leave(stack, events[position].start_s)
            stack.append(events[position])
            position += 1
        _leave(stack, call.start_s)
        yield id(call), tuple(stack)


def _leave(stack: list[HostEvent], moment_s: float) -> None:
    """Events of one thread are nested, so what has ended by now is on top."""
    while stack and stack[-1].end_s <= moment_s:
        stack.pop()


def operator_times(trace: Trace) -> list[tuple[str, Role, float]]:
    """Each operator's own time, without those it calls: name, role and seconds, in the order of their start."""
    own: dict[int, float] = {}
    stacks: dict[str, list[HostEvent]] = defaultdict(list)
    found: list[tuple[HostEvent, Role]] = []
    for event in trace.host:
        stack = stacks[event.thread]
        _leave(stack, event.start_s)
        duration = event.end_s - event.start_s
        if stack:
            own[id(stack[-1])] -= duration
        own[id(event)] = duration
        stack.append(event)
        if not event.name.startswith(LABEL_PREFIX):
            found.append((event, role_of_stack(tuple(stack))))
    return [(event.name, role, max(0.0, own[id(event)])) for event, role in found]
