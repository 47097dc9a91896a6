"""The paired test and its correction, against counting by hand and against what must hold of any p."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.significance import DRAWS, EXACT_UP_TO, holm, paired_p, sign_flip_p

WHOLE = st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=8)
ANY = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=EXACT_UP_TO + 4)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # only all plus and all minus reach 6
        ([1.0, 2.0, -3.0], 1.0),  # nothing is nearer to zero than 0
        ([3.0, 2.0, -1.0], 4 / 8),  # +-6 and +-4
        ([1.0, 1.0, 1.0, -1.0], 10 / 16),  # all but the six sums of 0
        ([0.5] * 6, 2 / 64),
        ([0.1, 0.2, 0.3, -0.6], 1.0),
        ([0.0, 0.0], 1.0),
        ([1e-300, 1e-300], 0.5),
        ([1e308, 1e308], 0.5),
    ],
)
def test_what_can_be_counted_by_hand(differences: list[float], p: float) -> None:
    assert sign_flip_p(differences) == p


@pytest.mark.parametrize("differences", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_no_p_where_there_is_nothing_to_test(differences: list[float]) -> None:
    assert sign_flip_p(differences) is None


@given(WHOLE)
def test_it_is_the_share_of_all_signs(differences: list[float]) -> None:
    ways = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    assert sign_flip_p(differences) == sum(way >= abs(sum(differences)) for way in ways) / len(ways)


@given(ANY)
def test_a_p_is_a_probability_whatever_the_sign(differences: list[float]) -> None:
    p = sign_flip_p(differences)
    assert p is not None
    assert 0 <= p <= 1
    assert sign_flip_p([-value for value in differences]) == p
    if len(differences) <= EXACT_UP_TO:
        assert p >= 2 / 2 ** len(differences)


@pytest.mark.parametrize("against", range(8))
def test_many_seeds_go_on_where_counting_ends(against: int) -> None:
    """Sixteen signs of one size: the exact p is a sum of binomials, and 4095 draws come within four deviations."""
    exact = min(1.0, 2 * sum(math.comb(16, k) for k in range(against + 1)) / 2**16)
    p = sign_flip_p([0.1] * (16 - against) + [-0.1] * against)
    assert p is not None
    assert abs(p - exact) <= 4 * math.sqrt(exact * (1 - exact) / DRAWS) + 1 / DRAWS


def test_only_common_seeds_are_paired() -> None:
    assert paired_p({0: 1.0, 1: 2.0, 5: 9.0}, {1: 1.0, 0: 0.5, 7: 3.0}) == 0.5
    assert paired_p({0: 1.0, 5: 9.0}, {0: 0.5, 7: 3.0}) is None


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    assert holm({"a": 0.5, "b": 0.75}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(st.dictionaries(st.integers(), st.floats(0, 1), max_size=8))
def test_holm_is_never_below_raw_and_keeps_the_order(raw: dict[int, float]) -> None:
    corrected = holm(raw)
    assert corrected.keys() == raw.keys()
    for name, p in raw.items():
        assert p <= corrected[name] <= 1
    ranked = sorted(raw, key=lambda name: raw[name])
    assert [corrected[name] for name in ranked] == sorted(corrected.values())
