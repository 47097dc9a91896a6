"""A copy of a run, edited in $EDITOR and queued: the text that is edited, the command, and what happens to it."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot

from storage.home import HomePaths
from tests.unit.tui.conftest import at, lab, until
from tests.unit.tui.test_actions import done, runs_screen, select, told
from tui.app import MambaLab, make_app
from tui.screens.confirm import ConfirmScreen
from tui.screens.runs import RunsScreen
from tui.toml import to_toml, without_unset

EDITOR = """
import sys
from pathlib import Path
path = Path(sys.argv[-1])
text = path.read_text()
Path({seen!r}).write_text(text)
path.write_text(text.replace({old!r}, {new!r}))
sys.exit({code})
"""
WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=10)
VALUES = SCALARS | st.lists(st.integers(0, 9) | st.text(max_size=3), max_size=3)


@given(
    st.dictionaries(WORDS, st.recursive(VALUES, lambda below: st.dictionaries(WORDS, below, max_size=4)), max_size=5)
)
def test_what_is_edited_reads_back_as_it_was(tree: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(tree)) == without_unset(tree)


class FakeLauncher:
    """Notes what it is asked."""

    def __init__(self, refusal: str = "") -> None:
        self.refusal = refusal
        self.specs: list[Mapping[str, Any]] = []
        self.submitted: list[list[str]] = []

    def options(self, spec: Mapping[str, Any]) -> list[str]:
        """Return an option."""
        self.specs.append(spec)
        if self.refusal:
            raise ValueError(self.refusal)
        return ["--set", f"seed={spec['seed']}"]

    def submit(self, words: Sequence[str]) -> None:
        """Note it."""
        self.submitted.append(list(words))


def edit(monkeypatch: pytest.MonkeyPatch, folder: Path, old: str, new: str, code: int = 0) -> Path:
    """Make an editor that replaces a text and ends with a code; return where it notes what it was given."""
    script, seen = folder / "editor.py", folder / "seen.toml"
    script.write_text(EDITOR.format(seen=str(seen), old=old, new=new, code=code), encoding="utf-8")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{sys.executable} '{script}'")
    return seen


@pytest.fixture
def _suspends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MambaLab, "suspend", lambda _app: nullcontext())  # there is no terminal to hand over


def driving(store: HomePaths, launcher: FakeLauncher | None) -> AbstractAsyncContextManager[Pilot[None]]:
    """Run the application with a launcher, until it has read the store."""

    @asynccontextmanager
    async def run() -> AsyncIterator[Pilot[None]]:
        app = make_app(store, launcher=launcher)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: app.snapshot.complete)
            yield pilot

    return run()


@pytest.mark.usefixtures("_suspends")
async def test_an_edited_copy_is_queued_by_the_command_that_is_shown_and_copied(
    store: HomePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = FakeLauncher()
    async with driving(store, launcher) as pilot:
        run = await select(pilot, "completed")
        spec = json.loads(run.spec_json)
        seen = edit(monkeypatch, tmp_path, f"seed = {spec['seed']}\n", "seed = 77\n")
        await pilot.press("E")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "it asks")
        line = f"mambalab run --detach --name {run.name} --set seed=77"
        assert at(pilot, ConfirmScreen).command == line
        assert lab(pilot).clipboard == line
        assert launcher.submitted == []
        assert tomllib.loads(seen.read_text(encoding="utf-8")) == without_unset(spec)
        assert launcher.specs == [{**without_unset(spec), "seed": 77}]
        await pilot.press("y")
        await done(pilot)
        assert launcher.submitted == [["run", "--detach", "--name", run.name, "--set", "seed=77"]]
        assert lab(pilot).commands[0].command == line
        await pilot.press("E")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "it asks again")
        await pilot.press("escape")
        await done(pilot, 2)
        assert len(launcher.submitted) == 1
        assert lab(pilot).commands[1].what.endswith("not queued")


@pytest.mark.usefixtures("_suspends")
@pytest.mark.parametrize(
    ("old", "new", "code", "refusal", "said"),
    [
        ("nowhere", "", 0, "", "nothing was changed"),
        ("seed = ", "seed == ", 0, "", "Invalid value"),
        ("seed = ", "seed = 7", 3, "", "ended with 3"),
        ("seed = ", "seed = 7", 0, "train.lr: got -1", "train.lr: got -1"),
    ],
)
async def test_nothing_is_queued_without_a_good_change(
    store: HomePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, code: int, refusal: str, said: str
) -> None:  # fmt: skip
    edit(monkeypatch, tmp_path, old, new, code)
    launcher = FakeLauncher(refusal)
    async with driving(store, launcher) as pilot:
        await pilot.press("E")
        await until(pilot, lambda: any(said in text for text in told(pilot)), said)
        at(pilot, RunsScreen)
        assert launcher.submitted == []


@pytest.mark.usefixtures("_suspends")
async def test_an_editor_that_is_not_there_is_named(store: HomePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "/no/such/editor")
    async with driving(store, FakeLauncher()) as pilot:
        await pilot.press("E")
        await until(pilot, lambda: any("/no/such/editor" in text for text in told(pilot)))


async def test_without_a_launcher_the_key_says_why_it_cannot(store: HomePaths) -> None:
    async with driving(store, None) as pilot:
        assert runs_screen(pilot).table.selected is not None
        await pilot.press("E")
        assert told(pilot) == ["clone: nothing here queues runs"]
