"""What lies outside of the program: full disks, encodings without our letters, folders that cannot be had."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.main import run

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab


def test_a_full_disk_behind_stdout_is_said(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            run(["ls"])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: stdout cannot be written: No space left on device")
    assert "Traceback" not in told


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *words: str) -> str:
    """Return what a command writes to a stdout of that encoding."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with pytest.raises(SystemExit) as ended:
        run(list(words))
    assert ended.value.code == 0
    return raw.getvalue().decode(encoding)


def test_a_table_is_legible_where_letters_are_missing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0.980 +- 0.014 (2)" in printed(monkeypatch, "ascii", "table", "demo")
    assert "0.980 ± 0.014 (2)" in printed(monkeypatch, "latin-1", "table", "demo")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_whole_in_any_encoding(lab: Lab, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    answer = printed(monkeypatch, encoding, "query", "SELECT 'é漢' AS word", "--json")
    assert json.loads(answer) == [{"word": "é漢"}]


def test_csv_loses_no_letter(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, "ascii", "query", "SELECT 'é漢' AS word", "--format", "csv") == "word\n\\xe9\\u6f22\n"


@pytest.mark.parametrize("words", [["show", "\udcff"], ["run", "--name", "\udcff", "--detach"]])
def test_bytes_that_are_no_text_are_refused(call: Call, lab: Lab, words: list[str]) -> None:
    done = call(*words)
    assert done.code == 2
    assert done.stderr == (
        "error: '\\udcff' holds bytes that are no UTF-8; expected text in the terminal's encoding, UTF-8.\n"
    )


@pytest.mark.parametrize(
    ("folder", "told"),
    [("file/below", "Not a directory. A file stands where a folder is meant"), ("x" * 300, "File name too long")],
)
def test_a_home_that_cannot_be_is_said(call: Call, tmp_path: Path, folder: str, told: str) -> None:
    (tmp_path / "file").write_text("")
    done = call("--home", folder, "submit", "demo")
    assert done.code == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_made_names_the_way_out(call: Call) -> None:
    done = call("--home", "/proc/nowhere", "submit", "demo")
    assert done.code == 1
    assert "cannot be made the folder of a store" in done.stderr
    assert "--home" in done.stderr
