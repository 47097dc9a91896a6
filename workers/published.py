"""What a paper printed for an ablation, as data: its numbers, and the claims that a repetition should bear out.

An ablation's file may hold a table `[paper]`. Nothing of it changes a run; it says what to compare the results with.
Pure: neither torch nor Ray.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from workers.spec_base import Spec

Outcome = Literal["holds", "fails", "unknown"]


class Expectation(Spec):
    """One claim about the means of trials, named by their labels. Bounds are in the unit of our metric.

    Exactly one kind: `of` with `above` or `below` or both; `rising`, each mean above the one before it by more than
    minus `slack`; `alike`, no two further apart than `within`; `widening`, pairs whose difference grows from pair to pair.
    """

    claim: str = Field(min_length=1)
    metric: str = ""  # another one than the table's
    of: tuple[str, ...] = ()
    above: float | None = None
    below: float | None = None
    rising: tuple[str, ...] = ()
    slack: float = Field(0.0, ge=0)
    alike: tuple[str, ...] = ()
    within: float = Field(0.0, ge=0)
    widening: tuple[tuple[str, str], ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Expectation:
        if sum(map(bool, (self.of, self.rising, self.alike, self.widening))) != 1:
            raise ValueError("an expectation needs exactly one of `of`, `rising`, `alike` and `widening`")
        if self.of and self.above is None and self.below is None:
            raise ValueError("`of` needs a bound: `above`, `below` or both")
        return self

    def labels(self) -> list[str]:
        """Return the trials that the claim is about."""
        return [*self.of, *self.rising, *self.alike, *itertools.chain.from_iterable(self.widening)]


class Published(Spec):
    """A published table. `values` holds the numbers as printed; times `factor` they are in the unit of our metric.

    Where `comparable` is false, the paper measured on other data, so that ranks can be compared and differences cannot.
    `best_over` names axes of which the best value counts, as where a paper reports the best learning rate; the labels in
    `values` and in the claims leave these axes out.
    """

    source: str = Field(min_length=1)
    metric: str = ""  # empty: the ablation's deciding metric
    factor: float = Field(1.0, gt=0)
    comparable: bool = True
    best_over: tuple[str, ...] = ()
    values: dict[str, float] = Field(default_factory=dict)
    also: dict[str, dict[str, float]] = Field(default_factory=dict)  # values of other metrics, by their names
    expect: tuple[Expectation, ...] = ()


class Verdict(NamedTuple):
    """Whether a claim holds, and the numbers that say so."""

    outcome: Outcome
    detail: str


def judge(expectation: Expectation, means: Mapping[str, float]) -> Verdict:
    """Return whether a claim holds for the means by label; `unknown` while one of them is missing."""
    missing = [label for label in expectation.labels() if math.isnan(means.get(label, math.nan))]
    if missing:
        return Verdict("unknown", f"no result yet: {', '.join(dict.fromkeys(missing))}")
    broken = _broken(expectation, means)
    if broken:
        return Verdict("fails", "; ".join(broken))
    return Verdict("holds", ", ".join(f"{label} {means[label]:.4g}" for label in expectation.labels()))


def _broken(expectation: Expectation, means: Mapping[str, float]) -> list[str]:
    above = -math.inf if expectation.above is None else expectation.above
    below = math.inf if expectation.below is None else expectation.below
    broken = [f"{label} is {means[label]:.4g}" for label in expectation.of if not above < means[label] < below]
    for lower, higher in itertools.pairwise(expectation.rising):
        if not means[higher] > means[lower] - expectation.slack:
            broken.append(f"{higher} {means[higher]:.4g} is not above {lower} {means[lower]:.4g}")
    for one, other in itertools.combinations(expectation.alike, 2):
        if abs(means[one] - means[other]) > expectation.within:
            broken.append(
                f"{one} {means[one]:.4g} and {other} {means[other]:.4g} differ by more than {expectation.within:g}"
            )
    gaps = [(f"{one} - {other}", means[one] - means[other]) for one, other in expectation.widening]
    for (first, smaller), (second, larger) in itertools.pairwise(gaps):
        if not larger > smaller - expectation.slack:
            broken.append(f"{second} = {larger:.4g} is not wider than {first} = {smaller:.4g}")
    return broken
