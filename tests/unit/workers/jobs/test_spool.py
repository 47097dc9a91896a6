"""The spool: what is written is read, once, whatever the cuts."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.jobs.spool import heartbeat_line, metrics_line, note_line, parse, read_from

UNHURRIED = settings(deadline=None, max_examples=50)  # how fast this machine is decides nothing

NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**53), 2**53).map(float)
NAMES = st.text(min_size=1, max_size=20)
METRICS = st.tuples(st.floats(0, 2e9), st.integers(0, 10**9), st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=4))


def same(left: dict[str, float], right: dict[str, float]) -> bool:
    return left.keys() == right.keys() and all(
        left[name] == right[name] or (math.isnan(left[name]) and math.isnan(right[name])) for name in left
    )


@UNHURRIED
@given(st.lists(METRICS, max_size=8))
def test_metrics_survive_the_spool(rows: list[tuple[float, int, dict[str, float]]]) -> None:
    batch = parse(b"".join(metrics_line(*row) for row in rows))
    assert batch.damaged == []
    for (at, step, values), line in zip(rows, batch.metrics, strict=True):
        assert (line.at, line.step) == (at, step)
        assert same(line.values, values)
    assert batch.last_at == max((at for at, _, _ in rows), default=None)


@UNHURRIED
@given(st.lists(METRICS, max_size=8), st.binary(max_size=30), st.integers(1, 400), st.data())
def test_reading_by_cursor_yields_each_whole_line_once(
    rows: list[tuple[float, int, dict[str, float]]], torn: bytes, limit: int, data: st.DataObject
) -> None:
    """The file grows while it is read, in pieces that end anywhere, and its last line stays torn."""
    whole = b"".join(metrics_line(*row) for row in rows)
    content = whole + torn.replace(b"\n", b"")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spool.jsonl"
        taken, cursor, size = b"", 0, 0
        while size < len(content):
            size = data.draw(st.integers(min(len(content), size + 1 + len(content) // 5), len(content)))
            path.write_bytes(content[:size])
            while True:
                piece, after = read_from(path, cursor, limit)
                assert after == cursor + len(piece)
                assert piece == b"" or piece.endswith(b"\n")
                if not piece:
                    break
                taken, cursor = taken + piece, after
        assert taken == whole
        assert read_from(path, cursor, limit) == (b"", cursor)


@UNHURRIED
@given(st.lists(st.binary(max_size=40), max_size=6), METRICS)
def test_garbage_is_kept_as_damage_and_the_rest_is_read(
    garbage: list[bytes], row: tuple[float, int, dict[str, float]]
) -> None:
    lines = [piece.replace(b"\n", b"").replace(b"\r", b"") for piece in garbage]
    data = b"".join(line + b"\n" for line in lines) + metrics_line(*row)
    batch = parse(data)
    assert same(batch.metrics[-1].values, row[2])
    assert len(batch.metrics) + len(batch.notes) + len(batch.damaged) >= 1


@pytest.mark.parametrize("line", [b"1", b"[]", b'{"kind":"metrics"}', b'{"kind":"dance","at":1}', b'{"kind":"not'])
def test_a_line_of_another_shape_is_damage(line: bytes) -> None:
    batch = parse(line + b"\n" + heartbeat_line(3.0))
    assert batch.damaged == [line.decode()]
    assert batch.last_at == 3.0


def test_a_note_keeps_its_tree_and_names_what_json_cannot_hold() -> None:
    payload: dict[str, Any] = {"deep": {"list": [1, math.inf]}, "nan": math.nan, "text": "é"}
    (note,) = parse(note_line(1.0, "hardware", payload)).notes
    assert (note.name, note.payload) == ("hardware", {"deep": {"list": [1, "inf"]}, "nan": "nan", "text": "é"})


def test_every_line_is_json_that_others_can_read_too() -> None:
    line = metrics_line(1.0, 1, {"train/loss": math.nan})
    assert json.loads(line, parse_constant=pytest.fail)["values"] == {"train/loss": "nan"}


def test_a_file_that_is_not_there_yet_has_no_lines(tmp_path: Path) -> None:
    assert read_from(tmp_path / "spool.jsonl", 0) == (b"", 0)


def test_a_line_longer_than_the_limit_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    line = note_line(1.0, "long", {"text": "x" * 10_000})
    path.write_bytes(line + heartbeat_line(2.0))
    assert read_from(path, 0, limit=64) == (line, len(line))
