"""How numbers and times are written for people."""

from __future__ import annotations

import time


def number(value: float | None) -> str:
    """Return a metric's value with four significant digits; nothing for none."""
    return "" if value is None else f"{value:.4g}"


def counted(count: int, thing: str) -> str:
    """Return a count with its thing: 1 run, 2 runs, 1,000 runs."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def large(value: float) -> str:
    """Return a count as people say it: 950, 66.5K, 1.2M, 3.4G."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:g}"


def duration(seconds: float | None) -> str:
    """Return a span of time: 8.2s, 3m 12s, 2h 05m, 3d 04h."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, left = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {left:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours < 24 else f"{hours // 24}d {hours % 24:02d}h"


def ago(at: float | None, now: float | None = None) -> str:
    """Return how long ago a time was, in its largest unit: 8s ago, 3m ago, 2h ago, 4d ago."""
    if at is None:
        return ""
    seconds = max(0.0, (time.time() if now is None else now) - at)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit} ago"
    return f"{int(seconds)}s ago"


def clock(at: float | None) -> str:
    """Return a time as the local clock shows it, to the second; nothing for none."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def steps(step: int, total: int | None) -> str:
    """Return how far a run is: 120/500, or 120 where the end is unknown."""
    return str(step) if total is None else f"{step}/{total}"
