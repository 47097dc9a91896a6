"""The latest metrics of a run as one value of one column: their numbers in `metric_key`, then their values.

Text would cost a reader ten times as much for ten thousand runs, and would have to invent a spelling for NaN. Plain SQL
reads the same numbers in table `latest`. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

_BYTES = 8  # of a number, and of a value


def pack(keys: Sequence[int], values: Sequence[float]) -> bytes:
    """Return keys and values, as many of one as of the other, in one piece."""
    return struct.pack(f"<{len(keys)}q{len(values)}d", *keys, *values)


def unpacker(names: dict[int, str]) -> Callable[[bytes], dict[str, float]]:
    """Return a function from a packed piece to values by name. Runs that share their keys share the work on them."""
    known: dict[bytes, tuple[tuple[str, ...], struct.Struct]] = {}

    def unpack(packed: bytes) -> dict[str, float]:
        half = len(packed) // 2
        head = packed[:half]
        if head not in known:
            count = half // _BYTES
            titles = tuple(names[number] for number in struct.unpack(f"<{count}q", head))
            known[head] = titles, struct.Struct(f"<{count}d")
        titles, values = known[head]
        return dict(zip(titles, values.unpack_from(packed, half), strict=True))

    return unpack
