"""Watch a device's power, clocks, temperature and throttling while another process measures on it."""

import threading
from types import TracebackType

from bitbench.facts.samples import LOOK_PERIOD_S, PowerSample
from bitbench.measure.power_sources import source_of


class PowerWatch:
    """Look at a device every `period_s` seconds between entering and leaving.

    For the runner's process, never the worker's: a thread there would take the GIL from an engine that is bound by the
    host. Nothing that NVML or the system refuses is an error; it is None in the samples. Where nothing can be read at
    all, no thread is started. Raises ValueError for a device such as `cuda:x`.
    """

    def __init__(self, device: str, period_s: float = LOOK_PERIOD_S) -> None:
        self._source = source_of(device)
        self._period_s = period_s
        self._samples: list[PowerSample] = []
        self._lock = threading.Lock()  # keeps samples in order: the thread and the caller both look
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "PowerWatch":
        self._look()
        if self._source.changes:
            self._thread = threading.Thread(target=self._watch, name="power-watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()

    @property
    def is_watching(self) -> bool:
        """Whether a thread is looking now."""
        return self._thread is not None and self._thread.is_alive()

    def samples(self, since_s: float = float("-inf")) -> tuple[PowerSample, ...]:
        """Samples from `since_s` (CLOCK_MONOTONIC) on and the last one before it: a window from `since_s` is covered.

        While watching, a fresh sample is taken first, so that a window that ends now is covered too.
        """
        if not self._stop.is_set():
            self._look()
        with self._lock:
            kept = list(self._samples)
        first = sum(sample.at_s < since_s for sample in kept)
        return tuple(kept[max(first - 1, 0) :])

    def _watch(self) -> None:
        while not self._stop.wait(self._period_s):
            self._look()

    def _look(self) -> None:
        with self._lock:
            self._samples.append(self._source.look())
