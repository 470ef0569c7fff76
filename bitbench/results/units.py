"""Numbers as people read them. The only place where s, bytes and fractions become ms, GB and %."""

from bitbench.results.stats import Interval

UNKNOWN = "-"


def significant(value: float | None, digits: int = 3) -> str:
    """At least `digits` significant digits, thousands set apart: 0.61, 57.1, 4,360."""
    if value is None:
        return UNKNOWN
    # Rounded first: 9.999 is 10.0, not 10.00.
    size = abs(float(f"{value:.{digits - 1}e}"))
    decimals = 0
    while decimals < 9 and 0 < size * 10**decimals < 10 ** (digits - 1):
        decimals += 1
    return f"{value:,.{decimals}f}"


def milliseconds(seconds: float | None) -> str:
    """Without the unit."""
    return significant(None if seconds is None else seconds * 1e3)


def gigabytes(num_bytes: float | None) -> str:
    """10^9 bytes, without the unit."""
    return significant(None if num_bytes is None else num_bytes / 1e9)


def memory(num_bytes: float | None) -> str:
    """With its unit: 0.988 GB, 134 MB."""
    if num_bytes is None:
        return "unknown"
    return f"{significant(num_bytes / 1e9)} GB" if num_bytes >= 1e8 else f"{significant(num_bytes / 1e6)} MB"


def bandwidth(bytes_per_s: float) -> str:
    """With its unit: 4.31 TB/s, 18.2 GB/s."""
    tera = bytes_per_s >= 1e12
    return f"{significant(bytes_per_s / 1e12)} TB/s" if tera else f"{significant(bytes_per_s / 1e9)} GB/s"


def percent(fraction: float | None) -> str:
    """Without the unit: whole from 10% on, one decimal below."""
    if fraction is None:
        return UNKNOWN
    return f"{fraction * 100:.0f}" if abs(fraction) >= 0.0995 or fraction == 0 else f"{fraction * 100:.1f}"


def share(fraction: float | None) -> str:
    """Of positions, in percent without the unit: one decimal throughout."""
    return UNKNOWN if fraction is None else f"{fraction * 100:.1f}"


def kl(nats: float | None) -> str:
    """Without the unit: two significant digits, none below 0.0001."""
    if nats is None:
        return UNKNOWN
    return "<0.0001" if 0 < nats < 1e-4 else f"{nats:.{1 if nats >= 1 else 4 if nats < 0.01 else 3}f}"


def ratio(value: float | None) -> str:
    """1.40x."""
    return UNKNOWN if value is None else f"{value:.2f}x"


def span(low: float, high: float) -> str:
    """49.2-61.9: both ends alike."""
    return f"{significant(low)}–{significant(high)}"


def duration(seconds: float) -> str:
    """With its unit: 1.20 s, 17.5 ms, 5.95 us."""
    size = abs(seconds)
    if size >= 1:
        return f"{significant(seconds)} s"
    return f"{significant(seconds * 1e3)} ms" if size >= 1e-3 else f"{significant(seconds * 1e6)} us"


def count(value: float) -> str:
    """A number of things, which an average may break: 1,006, 24, 1.5."""
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.1f}"


def per_step(number: float) -> str:
    """How many of something there are in a step: as `count`, or "1 in 8" where one is for several steps."""
    return f"1 in {1 / number:.0f}" if 0 < number < 0.6 else count(number)


def interval(of: Interval | None) -> str:
    """As an afterthought, of a ratio: " (95% 1.58–1.98)"; empty where unknown."""
    return "" if of is None else f" ({'95%' if of.kind == 't95' else 'range'} {of.low:.2f}–{of.high:.2f})"
