"""Chrome traces made by hand: a small device on which everything takes as long as the test says."""

from typing import Any


class TraceWriter:
    """Writes events as torch's profiler does; `at` moves the clock in microseconds."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.now = 1000.0
        self._correlation = 0

    def host(self, name: str, start: float, end: float, cat: str = "cpu_op", tid: int = 7) -> None:
        self.events.append({"ph": "X", "cat": cat, "name": name, "tid": tid, "ts": start, "dur": end - start})

    def label(self, role: str, start: float, end: float) -> None:
        self.host(f"bitbench:{role}", start, end, "user_annotation")

    def runtime(self, name: str, start: float, tid: int = 7) -> int:
        self._correlation += 1
        self.events.append(
            {
                "ph": "X",
                "cat": "cuda_runtime",
                "name": name,
                "tid": tid,
                "ts": start,
                "dur": 1.0,
                "args": {"correlation": self._correlation},
            }
        )
        return self._correlation

    def work(self, name: str, start: float, duration: float, correlation: int | None, cat: str = "kernel") -> None:
        args = {} if correlation is None else {"correlation": correlation}
        self.events.append({"ph": "X", "cat": cat, "name": name, "tid": 1, "ts": start, "dur": duration, "args": args})

    def launch(self, name: str, host_at: float, device_at: float, duration: float) -> None:
        """A kernel launched on the host at one time and run on the device at another."""
        self.work(name, device_at, duration, self.runtime("cudaLaunchKernel", host_at))
