"""Whether a difference over seeds is more than chance: an exact paired test, corrected for asking often. Pure, stdlib only.

The test asks in how many ways the signs of the paired differences could be turned so that their sum is as far from zero
as the one observed. It supposes nothing about their distribution but that, without an effect, either sign is as likely.
With n pairs there are 2^n ways and two of them are always as far, so no p is below 2 / 2^n: 0.25 for 3 seeds, 0.03 for 6.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from operator import mul
from typing import TypeVar

LEVEL = 0.05
EXACT_UP_TO = 12  # pairs: 4096 ways
DRAWS = 4095  # of random signs beyond; with the observed ones as many as the most that are counted
_TIE = 1e-12  # sums of the same numbers in another order differ by rounding, which decides nothing

Name = TypeVar("Name")


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of a paired sign-flip test.

    All signs are tried for up to `EXACT_UP_TO` differences; beyond, `DRAWS` random ones, always the same, and the observed.
    None for fewer than two differences, and where one is not finite: how far an infinite one is off nobody can say.
    """
    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return None
    largest = max(map(abs, differences)) or 1.0
    scaled = [difference / largest for difference in differences]  # sums of huge ones stay numbers
    observed = abs(math.fsum(scaled))
    sums = _all_sums(scaled) if len(scaled) <= EXACT_UP_TO else [observed, *_random_sums(scaled)]
    least = observed - _TIE * len(scaled)
    return sum(abs(total) >= least for total in sums) / len(sums)


def _all_sums(values: Sequence[float]) -> list[float]:
    sums = [values[0]]  # the first keeps its sign: turning all of them gives the same distance from zero
    for value in values[1:]:
        sums = [changed for total in sums for changed in (total + value, total - value)]
    return sums


def _random_sums(values: Sequence[float]) -> list[float]:
    signs = random.Random(0)
    return [sum(map(mul, values, signs.choices((1.0, -1.0), k=len(values)))) for _ in range(DRAWS)]


def paired_p(values: Mapping[int, float], baseline: Mapping[int, float]) -> float | None:
    """Return the p of `sign_flip_p` over the seeds that both have."""
    return sign_flip_p([values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())])


def holm(raw: Mapping[Name, float]) -> dict[Name, float]:
    """Return p values corrected by Holm's method: below a level, the chance of one false alarm among all is below it."""
    corrected: dict[Name, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(raw.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(raw) - rank)))
        corrected[name] = highest
    return corrected
