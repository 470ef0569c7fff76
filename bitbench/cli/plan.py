"""`--dry-run`: what a run would do, need and take."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bitbench.runner.plan import Plan, PlannedCell

_SMALL_BYTES = 10_000_000


def gigabytes(value: float | None) -> str:
    """Decimal gigabytes with two digits, megabytes below ten of them; a dash where unknown."""
    if value is None:
        return "-"
    return f"{value / 1e6:.2f} MB" if 0 < value < _SMALL_BYTES else f"{value / 1e9:.2f} GB"


def minutes(seconds: float) -> str:
    """`45 s` or `7 min`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def plan_view(plan: Plan) -> RenderableType:
    """Cells, processes, downloads, disk, memory, time and ceilings."""
    request = plan.request
    head = [
        f"{request.model.label} on {plan.environment.device_name} · {' and '.join(request.engines)} · "
        f"{request.workload.name} · "
        f"{len(plan.cells)} rows x {request.first_processes} processes"
        + (
            ""
            if request.first_processes == request.most_processes
            else f" (to {request.most_processes} for the precision)"
        ),
        f"prompts for each process: {-(-request.workload.num_prompts // request.first_processes)}, "
        f"new tokens {request.workload.output_len}, batch {request.workload.batch_size}",
    ]
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("method", "weights", "needs", "fits", "ceiling tok/s", "disk", "download", "checkpoint"):
        rows.add_column(title, justify="left" if title in ("method", "checkpoint") else "right")
    for planned in plan.cells:
        rows.add_row(*_row(planned, plan))
    return Group(*(Text(line) for line in head), Text(), rows, Text(), *(Text(line) for line in _foot(plan)))


def _row(planned: PlannedCell, plan: Plan) -> list[str]:
    cell, guess, checkpoint = planned.cell, planned.forecast, planned.checkpoint
    label = cell.method_label if len(plan.request.engines) == 1 else f"{cell.method_label} ({cell.engine})"
    if not planned.supported.ok:
        return [label, *["-"] * 6, f"cannot run: {planned.supported.reason}"]
    fits = "-"
    if guess.memory_bytes and plan.memory_bytes:
        fits = "yes" if guess.memory_bytes < plan.memory_bytes else "NO"
    return [
        label,
        gigabytes(guess.weights_bytes),
        gigabytes(guess.memory_bytes),
        fits,
        f"{guess.ceiling_tokens_per_s:,.0f}" if guess.ceiling_tokens_per_s else "-",
        gigabytes(checkpoint.disk_bytes) if checkpoint else "-",
        gigabytes(checkpoint.download_bytes) if checkpoint else "-",
        ("cached" if checkpoint.cached else checkpoint.work) if checkpoint else "-",
    ]


def _foot(plan: Plan) -> list[str]:
    budget = plan.request.budget_s
    lines = [
        f"time: about {minutes(plan.time_s)} of measuring (a guess before anything is known"
        + (f"; the budget of {minutes(budget)} bounds it)" if budget else ")"),
        f"memory of the device: {gigabytes(plan.memory_bytes)}; 'needs' is weights, KV cache and 1 GB of workspace",
    ]
    if plan.bandwidth_bytes_per_s:
        speed = f"{plan.bandwidth_bytes_per_s / 1e9:,.0f} GB/s"
        lines.append(f"ceilings: at up to {speed}, {plan.bandwidth_source}; the run measures its own")
    else:
        lines.append("ceilings: the read bandwidth could not be measured here")
    return lines
