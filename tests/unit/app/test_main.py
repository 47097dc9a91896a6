"""The root command: help, exit codes, and how errors end."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.errors import EXPECTED, CommandError, ExitCode, exit_code_of
from app.verbs import VERBS
from storage.errors import AmbiguousPrefix, NotFound, NotReadOnly, StoreLocked
from workers.jobs.errors import ClusterError, ControllerError
from workers.training.errors import DeviceError

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(call: Call, verb: str) -> None:
    done = call(verb, "--help")
    assert done.code == 0
    assert "Usage: mambalab " + verb in done.stdout


def test_every_verb_stands_in_the_help(call: Call) -> None:
    text = call("--help").stdout
    assert all(f" {verb} " in text for verb in VERBS)


def test_nothing_asked_prints_the_help(call: Call) -> None:
    done = call()
    assert done.code == 2
    assert "Usage: mambalab" in done.stdout
    assert done.stderr == ""


def test_a_verb_that_does_not_exist_names_the_nearest(call: Call) -> None:
    done = call("sumbit", "demo")
    assert done.code == 2
    assert "Did you mean 'submit'" in done.stderr


def test_a_file_is_no_home(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("--home", "file", "ls")
    assert done.code == 2
    assert "is a file" in done.stderr


def test_the_home_may_come_from_the_environment(
    call: Call, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("MAMBALAB_HOME", str(lab.paths.root))
    assert len(call("ls", "--json").json) == 5


def test_the_home_is_found_upward(call: Call, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    assert len(call("ls", "--json").json) == 5


@pytest.mark.parametrize(("variable", "named"), [("", "lab"), ("lab", "")])
def test_the_terminal_ui_names_the_home_where_its_commands_must(
    call: Call, monkeypatch: pytest.MonkeyPatch, variable: str, named: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("tui.app.run_ui", lambda _paths, *, named_home, **_: asked.append(named_home))
    if variable:
        monkeypatch.setenv("MAMBALAB_HOME", variable)
    assert call("--home", "lab", "ui").code == 0
    assert asked == [named]


def test_the_version_is_the_distributions(call: Call) -> None:
    assert call("--version").stdout.startswith("mambalab 0.")


def test_an_interrupt_has_its_code(call: Call, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.console.data_json", interrupt)
    done = call("ls", "--json")
    assert done.code == 130
    assert done.stderr == "interrupted\n"


def test_a_defect_keeps_its_traceback(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.main import run

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("app.console.data_json", fail)
    with pytest.raises(ZeroDivisionError):
        run(["ls", "--json"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandError("x", ExitCode.NOT_FOUND), 3),
        (NotFound("x"), 3),
        (AmbiguousPrefix("a", ["ab", "ac"]), 2),
        (NotReadOnly("x"), 2),
        (StoreLocked("x"), 1),
        (ControllerError("x"), 1),
        (ClusterError("x"), 1),
        (DeviceError("x"), 1),
        (ValueError("x"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_errors_end_with_their_code(error: Exception, code: int | None) -> None:
    assert exit_code_of(error) == code


@pytest.mark.parametrize("name", EXPECTED)
def test_expected_errors_exist(name: str) -> None:
    """They are named in strings; a renamed class must not silently become a defect."""
    module, _, error = name.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), error), Exception)
