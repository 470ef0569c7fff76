"""Shows a run while it works: what is loaded, quantized, warmed up, which process and prompt, the spread, time left."""

import statistics
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bitbench.cli.plan import minutes
from bitbench.facts.messages import Event, Loaded, Progress, Sampled
from bitbench.facts.samples import Bandwidth
from bitbench.results import units
from bitbench.results.cell_quality import cell_quality
from bitbench.results.pool import throttled_throughout
from bitbench.results.record import Cell, Ending, QualityRecord, Record
from bitbench.runner.plan import Plan
from bitbench.runner.schedule import process_median

_STAGES = {
    "import": "importing libraries",
    "prepare": "preparing",
    "download": "downloading",
    "quantize": "quantizing",
    "load": "loading",
    "check": "checking",
    "warmup": "warming up",
    "measure": "measuring",
    "bandwidth": "measuring read bandwidth",
    "profile": "profiling",
    "quality": "comparing with the 16-bit model",
    "tasks": "lm-evaluation-harness",
}


class Display:
    """A Listener: one live line on a terminal, a plain line for each finished process elsewhere."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console, self._plan = console, plan
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._where = ""
        self._medians: dict[Cell, list[float]] = {}
        self._num_measured, self._num_left = 0, 0
        self._process_s: list[float] = []
        self._quiet_until = 0.0

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def task_started(self, what: str, cell: Cell | None, process_index: int, num_left: int) -> None:
        """A new worker: name it."""
        self._num_left, self._num_measured = num_left, 0
        if what == "measure" and cell is not None:
            self._where = f"{cell.method_label} · process {process_index + 1}"
        elif what == "reference":
            self._where = "the 16-bit model"
        elif what == "quality" and cell is not None:
            self._where = f"{cell.method_label} · quality"
        elif cell is not None:
            self._where = f"checkpoint for {cell.method_label}"
        else:
            self._where = "this machine"
        self._say("starting")

    def heard(self, event: Event) -> None:
        """Something to show of the worker."""
        if isinstance(event, Progress):
            share = f" {event.done:.0f}/{event.total:.0f}" if event.done is not None and event.total else ""
            self._say(f"{_STAGES[event.stage]}{share} {event.detail}".rstrip(), steady=event.stage == "quantize")
        elif isinstance(event, Loaded):
            self._say(f"loaded in {event.load_s:.1f} s, {event.kernel.name}")
        elif isinstance(event, Sampled):
            sample = event.sample
            speed = f"{sample.batch_size / sample.tpot_s:.1f} tok/s" if sample.tpot_s else f"{sample.total_s:.2f} s"
            if sample.warmup:
                self._say(f"warming up: {speed}")
            else:
                self._num_measured += 1
                self._say(f"prompt {self._num_measured}: {speed}")

    def bandwidth(self, rows: tuple[Bandwidth, ...], ceilings: dict[Cell, float]) -> None:
        """The ceiling, before anything is timed."""
        if not rows:
            return
        low, high = (f(r.bytes_per_s for r in rows) / 1e9 for f in (min, max))
        span = f"{high:,.0f}" if high < 1.01 * low else f"{low:,.0f} to {high:,.0f}"
        self._print(f"read bandwidth {span} GB/s (measured), so at most, in tok/s:")
        width = max((len(c.method_label) for c in ceilings), default=0)
        for cell, ceiling in ceilings.items():
            self._print(f"  {cell.method_label:<{width}}  {ceiling:>9,.0f}")

    def recorded(self, record: Record) -> None:
        """One line for each process that ended."""
        label = record.cell.method_label
        if record.status != "ok":
            self._print(f"{label} · {record.status}: {record.reason}")
            return
        median = process_median(record)
        if median is None:
            why = (
                "the device was slowed down throughout, so not counted"
                if throttled_throughout(record)
                else "one token, so no decode speed"
            )
            self._print(f"{label} · process {record.process_index + 1}: {why}")
            return
        if record.process_s:
            self._process_s.append(record.process_s)
        medians = self._medians.setdefault(record.cell, [])
        medians.append(record.batch_size / median)
        spread = f", processes {min(medians):.1f} to {max(medians):.1f}" if len(medians) > 1 else ""
        left = f" · {self._time_left()} left" if self._num_left else ""
        self._print(
            f"{label} · process {record.process_index + 1}: {record.batch_size / median:.1f} tok/s{spread}{left}"
        )

    def compared(self, record: QualityRecord) -> None:
        """One line for each cell."""
        label, found = record.subject.method_label, cell_quality(record)
        if found is None:
            self._print(f"{label} · {record.status}: {record.reason}")
            return
        took = f" · {record.compare_s:.0f} s" if record.compare_s else ""
        top1 = units.share(found.top1_agreement.value)
        self._print(f"{label} · KL {units.kl(found.kl.mean)} nats, {top1} % of likeliest tokens kept{took}")

    def ended(self, ending: Ending) -> None:
        """Nothing: the table says it."""

    def _time_left(self) -> str:
        seconds = statistics.mean(self._process_s) * self._num_left
        return minutes(min(seconds, self._plan.request.budget_s or seconds))

    def _say(self, detail: str, steady: bool = False) -> None:
        if self._live:
            self._live.update(Text(f"{self._where} · {detail}", style="dim", no_wrap=True, overflow="ellipsis"))
        elif steady and time.monotonic() > self._quiet_until:
            self._quiet_until = time.monotonic() + 15
            self._print(f"{self._where} · {detail}")

    def _print(self, line: str) -> None:
        self._console.print(Text(line, no_wrap=False), highlight=False, soft_wrap=True)
