"""Numbers, durations and ages in few characters. Standard library only."""

from __future__ import annotations

import math
import re

UNITS = (("d", 86400.0), ("h", 3600.0), ("m", 60.0))
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
DURATION = re.compile(r"(\d+(?:\.\d*)?)\s*([smhdw])")
SPARKS = "▁▂▃▄▅▆▇█"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number in at most about `digits` significant digits; nothing for None."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        return _exponent(f"{value:.{max(0, digits - 2)}e}")
    if value == int(value):
        return str(int(value))
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:.{min(decimals, 6)}f}"


def _exponent(text: str) -> str:
    mantissa, _, exponent = text.partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def count_label(value: float) -> str:
    """Return a step or a token count: 0, 500, 1.5k, 20k, 3.2M."""
    if abs(value) >= 1e15:
        return number(value, 4)
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return number(value, 4)


def duration(seconds: float | None) -> str:
    """Return a duration as its two largest units: 3d4h, 2h05, 4m10, 12s; nothing for None."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def parse_duration(text: str) -> float | None:
    """Return the seconds of `90`, `45s`, `2h`, `1d12h`; None for anything else."""
    try:
        return float(text)
    except ValueError:
        pass
    total, end = 0.0, 0
    for match in DURATION.finditer(text):
        if match.start() != end:
            return None
        total += float(match[1]) * SECONDS[match[2]]
        end = match.end()
    return total if end and end == len(text) else None


def bytes_size(count: int | None) -> str:
    """Return a size in binary units."""
    if count is None:
        return ""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return ""


def bar(share: float, width: int) -> tuple[str, str]:
    """Return a bar of `width` cells as its filled part, in halves of a cell, and its rest."""
    halves = round(max(0.0, min(1.0, share)) * width * 2)
    full, half = divmod(halves, 2)
    filled = "━" * full + "╸" * half
    return filled, "─" * (width - len(filled))


def plain(value: object) -> str:
    """Return a configuration's value as a person would type it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return "none" if value is None else str(value)


def clock_time(at: float | None) -> str:
    """Return a moment as local date and time; nothing for None."""
    from datetime import datetime

    if at is None:
        return ""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
