"""The account of a step that is repeated from a CUDA graph: what its time is made of, to the microsecond. Seconds."""

from dataclasses import dataclass

from bitbench.explain.step import step_of
from bitbench.explain.thresholds import ACCOUNT_TOLERANCE
from bitbench.facts.profile import RoleTime
from bitbench.results.summary import CellSummary


@dataclass(frozen=True, slots=True)
class Account:
    """TPOT = busy + kernels x gap + residual. The gap is what the graph needs between two kernels that depend on each
    other, measured on this device.
    """

    tpot_s: float
    busy_s: float
    num_kernels: float
    node_gap_s: float

    @property
    def gaps_s(self) -> float:
        """Kernels x gap."""
        return self.num_kernels * self.node_gap_s

    @property
    def sum_s(self) -> float:
        """What is accounted for."""
        return self.busy_s + self.gaps_s

    @property
    def residual_s(self) -> float:
        """What is not; negative where kernels overlap, or the gaps between them are shorter than measured."""
        return self.tpot_s - self.sum_s

    @property
    def residual(self) -> float:
        """Of the TPOT, a fraction."""
        return self.residual_s / self.tpot_s

    @property
    def holds(self) -> bool:
        """The sum explains the step."""
        return abs(self.residual) <= ACCOUNT_TOLERANCE


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the gap between a step and its ceiling. `busy_s` and `bytes_s` are those of a role, the latter what
    its bytes need at the measured bandwidth; None where the item is no role, or its bytes are not known.
    """

    name: str
    seconds: float
    num_kernels: float | None = None
    busy_s: float | None = None
    bytes_s: float | None = None


def account(row: CellSummary) -> Account | None:
    """None for a row that is not repeated from a graph, or has no profile."""
    step = step_of(row, "decode")
    if step is None or step.busy_s is None or step.node_gap_s is None or not step.num_kernels:
        return None
    return Account(step.time_s, step.busy_s, step.num_kernels, step.node_gap_s)


def gap_to_ceiling(row: CellSummary) -> tuple[Item, ...]:
    """Step - ceiling of a graphed row, itemised: each role's busy time less what its bytes need, the gaps between
    kernels, and the rest. The items add up to step - bytes / bandwidth. Empty without an account.
    """
    found, step = account(row), step_of(row, "decode")
    if found is None or step is None or step.profile is None or step.bytes_s is None:
        return ()
    roles = sorted((_item(role, step.bandwidth_bytes_per_s) for role in step.profile.roles), key=lambda i: -i.seconds)
    gaps = [Item("gaps between kernels", found.gaps_s, found.num_kernels)] if step.gaps_s is not None else []
    items = [*roles, *gaps]
    rest = step.time_s - step.bytes_s - sum(item.seconds for item in items)
    return (*items, Item("rest", rest))


def _item(role: RoleTime, bandwidth_bytes_per_s: float | None) -> Item:
    known = role.bytes_read is not None and bandwidth_bytes_per_s
    bytes_s = role.bytes_read / bandwidth_bytes_per_s if known else None  # type: ignore[operator]
    return Item(role.role, role.busy_s - (bytes_s or 0.0), role.num_kernels, role.busy_s, bytes_s)
