"""What is remembered between sessions, and what is loaded at the start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tui
from tui.settings import DEFAULT_COLUMNS, Settings, load_settings, save_settings, settings_file

MODULES = sorted(
    f"tui.{path.relative_to(Path(tui.__path__[0])).with_suffix('').as_posix().replace('/', '.')}".removesuffix(
        ".__init__"
    )
    for path in Path(tui.__path__[0]).rglob("*.py")
    if path.name != "__init__.py" or path.parent != Path(tui.__path__[0])
)


def loaded_by(*modules: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after importing some."""
    code = f"import {', '.join(modules)}, sys, json; print(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout))


def test_no_module_loads_what_belongs_to_other_rooms() -> None:
    assert (
        loaded_by(*MODULES) & {"torch", "ray", "sqlmodel", "sqlalchemy", "triton", "app", "workers", "kernels"} == set()
    )


def test_the_first_screen_needs_no_numpy() -> None:
    assert "numpy" not in loaded_by("tui.app")


def test_the_filter_language_needs_no_textual() -> None:
    assert loaded_by("tui.filter") & {"textual", "numpy", "rich", "pygments"} == set()


def test_settings_survive_and_are_found_where_the_desktop_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    settings = Settings(theme="mambalab-light", columns=["id"], widths={"id": 9}, sort="id", descending=False)
    assert save_settings(settings_file(), settings) == ""
    assert settings_file() == tmp_path / "mambalab" / "ui.json"
    assert load_settings(settings_file()) == (settings, "")
    assert [path.name for path in settings_file().parent.iterdir()] == ["ui.json"]


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\x00"])
def test_settings_that_cannot_be_read_are_replaced_by_the_defaults_and_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ui.json"
    path.write_text(text)
    settings, warning = load_settings(path)
    assert settings == Settings()
    assert str(path) in warning


def test_unknown_and_wrong_settings_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ui.json"
    path.write_text(json.dumps({"theme": 3, "columns": ["id"], "later": True}))
    settings, warning = load_settings(path)
    assert (settings.theme, settings.columns, warning) == ("mambalab-dark", ["id"], "")
    assert Settings().columns == list(DEFAULT_COLUMNS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"columns": [1, None]}, {"queries": ["SELECT 1", 2]}, {"widths": {"id": "x"}}, {"widths": {"id": -5}},
        {"widths": {"id": True}}, {"widths": {"id": 10**9}}, {"smoothing": 7.5}, {"smoothing": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_no_screen_could_use_are_left_out(tmp_path: Path, wrong: dict[str, object]) -> None:
    path = tmp_path / "ui.json"
    path.write_text(json.dumps(wrong))
    assert load_settings(path) == (Settings(), "")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "not kept" in save_settings(tmp_path / "file" / "ui.json", Settings())
