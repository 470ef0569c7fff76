"""Read bandwidth and the ceilings that follow: for a run, and for a dry run where no table knows them."""

from collections.abc import Sequence
from dataclasses import replace

from bitbench.facts.messages import BandwidthMeasured, BandwidthTask, Event
from bitbench.facts.samples import Bandwidth
from bitbench.runner.plan import Plan, PlannedCell
from bitbench.runner.process import Limits, run_worker

FALLBACK_SIZES = (1 << 28, 1 << 30)
"""Working sets, bytes, where no cell's are known."""


def working_sets(cells: tuple[PlannedCell, ...] | list[PlannedCell]) -> tuple[int, ...]:
    """The distinct bytes per step of the cells that are known, ascending; else FALLBACK_SIZES."""
    return tuple(sorted({c.forecast.bytes_per_step or 0 for c in cells} - {0})) or FALLBACK_SIZES


def nearest(rows: Sequence[Bandwidth], size: int) -> Bandwidth | None:
    """The measurement at the working-set size nearest to `size` bytes; None of none."""
    return min(rows, key=lambda row: abs(row.working_set_bytes - size), default=None)


def with_measured_ceilings(plan: Plan) -> Plan:
    """The plan with ceilings at the read bandwidth measured now, some seconds; unchanged where it can't be measured."""
    cells = [c for c in plan.cells if c.supported.ok]
    if not cells:
        return plan
    events: list[Event] = []
    task = BandwidthTask(device=cells[0].cell.device, working_set_bytes=working_sets(cells))
    run_worker(task, Limits(plan.request.silence_s), events.append)
    rows = next((e.bandwidths for e in events if isinstance(e, BandwidthMeasured)), ())
    if not rows:
        return plan

    def with_ceiling(planned: PlannedCell) -> PlannedCell:
        step = planned.forecast.bytes_per_step
        if not step:
            return planned
        row = nearest(rows, step)
        assert row is not None
        ceiling = plan.request.workload.batch_size * row.bytes_per_s / step
        return replace(planned, forecast=replace(planned.forecast, ceiling_tokens_per_s=ceiling))

    fastest = max(row.bytes_per_s for row in rows)
    return replace(
        plan,
        cells=tuple(map(with_ceiling, plan.cells)),
        bandwidth_bytes_per_s=fastest,
        bandwidth_source="read bandwidth measured just now",
    )
