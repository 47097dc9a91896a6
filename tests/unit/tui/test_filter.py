"""The filter language: what it selects, how it explains mistakes, and its laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tui.rows import make_run
from tui.filter import Fields, FilterError, compile_filter

NOW = 8_200.0  # two hours after the runs were created at 1000
RUNS = [
    make_run(1, status="failed", tags=("baseline", "odd"), metrics={"valid/accuracy": 0.2, "train/loss": math.nan}),
    make_run(2, status="running", step=60, created_at=8000.0, metrics={"valid/accuracy": 0.9, "train/loss": 0.1}),
    make_run(3, status="queued", step=0, metrics={}, name="Copying", ablation="copying", trial_label="s4d · 8",
             axis_labels={"layer": "s4d"}, spec_json='{"model": {"d_state": 8, "inner": "s4d"}, "train": {"lr": 0.01}}'),
]  # fmt: skip
FIELDS = Fields(
    metrics={"valid/accuracy", "train/loss", "train/lr", "valid/loss"},
    config={"model.d_state", "model.inner", "train.lr", "model.gate"},
    axes={"layer"},
)


def selected(text: str) -> list[int]:
    """Return the numbers of the runs that a filter lets through."""
    return [run.num for run in compile_filter(text, FIELDS).select(RUNS, NOW)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [1, 2, 3]),
        ("status=failed", [1]),
        ("status!=failed", [2, 3]),
        ("status==FAILED", [1]),
        ("status=*ed", [1, 3]),
        ("model.d_state>8", [1, 2]),
        ("d_state<=8", [3]),
        ("lr<1e-3 or lr>=1e-2", [3]),
        ("status=failed and model.d_state>8 and lr<=1e-3", [1]),
        ("not status=failed", [2, 3]),
        ("(status=failed or status=queued) d_state=16", [1]),
        ("baseline", [1]),
        ("tag=odd", [1]),
        ("copying", [3]),
        ("COPY*", [3]),
        ("s4d", [3]),
        ("run0000002", [2]),
        ("age<10m", [2]),
        ("age>=2h", [1, 3]),
        ("progress>50%", [1, 2]),
        ("step=0", [3]),
        ("accuracy>0.5", [2]),
        ("valid/accuracy<0.5", [1]),
        ("train/loss=nan", [1]),
        ("layer=s4d", [3]),
        ("inner~^s4", [3]),
        ("inner!~^s4", [1, 2]),
        ("name='Copying'", [3]),
        ('name="single-1"', [1]),
        ("trial=none", []),
        ("ablation=none", [1, 2]),
        ("archived=false", [1, 2, 3]),
        ("step>-1", [1, 2, 3]),
    ],
)
def test_it_selects(text: str, expected: list[int]) -> None:
    assert selected(text) == expected


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("status=", 7, "expected a value after status ="),
        ("d_sate>8", 0, "nearest is d_state"),
        ("step>0 and nope=1", 11, "no run has a field 'nope'"),
        ("lr<abc", 3, "< compares numbers, got 'abc'"),
        ("(status=failed", 0, "not closed"),
        ("status=failed)", 13, "nothing opened"),
        ("and step>0", 0, "nothing stands before 'and'"),
        ("step>0 or", 9, "something is missing"),
        ("=3", 0, "before '='"),
        ("name='open", 5, "quote that is not closed"),
        ("loss<1", 0, "may mean train/loss or valid/loss"),
        ("name~'('", 5, "not a regular expression"),
        ("not", 3, "something is missing"),
    ],
)
def test_it_explains_a_mistake_in_its_place(text: str, position: int, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter(text, FIELDS)
    assert caught.value.position == position
    assert words in str(caught.value)


TERMS = st.sampled_from(
    [
        "status=failed",
        "status!=queued",
        "d_state>8",
        "copying",
        "age<1h",
        "accuracy>=0.2",
        "inner~4",
        "progress<100%",
        "odd",
    ]
)
TREES = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} and {pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} or {pair[1]})"),
        inner.map(lambda term: f"not {term}"),
    ),
    max_leaves=6,
)


@given(TREES, TREES)
def test_and_or_not_are_those_of_sets(left: str, right: str) -> None:
    everything, a, b = {1, 2, 3}, set(selected(left)), set(selected(right))
    assert set(selected(f"{left} and {right}")) == a & b
    assert set(selected(f"{left} {right}")) == a & b
    assert set(selected(f"{left} or {right}")) == a | b
    assert set(selected(f"not ({left})")) == everything - a


@given(st.text(alphabet="ab.=<>!~()'\" %1-not rd/*?μ", max_size=30))
def test_any_text_is_a_filter_or_a_mistake_with_a_place(text: str) -> None:
    try:
        found = compile_filter(text, FIELDS)
    except FilterError as error:
        place, message = error.position, str(error)
    else:
        found.select(RUNS, NOW)
        return
    assert 0 <= place <= len(text)
    assert message


@given(st.floats(allow_nan=False), st.sampled_from(["<", "<=", ">", ">=", "=", "!="]))
def test_numbers_compare_as_numbers(value: float, operator: str) -> None:
    run = make_run(metrics={"valid/accuracy": 0.25})
    truth = {"<": value > 0.25, "<=": value >= 0.25, ">": value < 0.25, ">=": value <= 0.25,
             "=": value == 0.25, "!=": value != 0.25}  # fmt: skip
    assert compile_filter(f"accuracy{operator}{value!r}", FIELDS).matches(run, NOW) is truth[operator]


def test_without_known_fields_no_name_is_refused() -> None:
    assert compile_filter("anything>1").select(RUNS, NOW) == []
    assert [run.num for run in compile_filter("model.d_state=8").select(RUNS, NOW)] == [3]
