"""Runs made from a spec that was edited by hand: the options of `mambalab run` that describe it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.home import HomePaths

OPTIONS = """
import json, sys
from app.cloning import options_of
from workers.errors import SpecError
try:
    print(json.dumps(options_of(json.load(sys.stdin))))
except SpecError as error:
    sys.exit(str(error))
"""


def options_of(spec: Mapping[str, Any]) -> list[str]:
    """Return `--set KEY=VALUE` for each key that differs from what `mambalab run` starts from. Raises SpecError."""
    from workers.ablation import validate
    from workers.specs import RunSpec, flatten

    run = validate(RunSpec, spec, "the edited run")
    plain = validate(RunSpec, {"task": spec["task"]} if "task" in spec else {}, "the edited run")
    wanted, start = flatten(run.model_dump(mode="json")), flatten(plain.model_dump(mode="json"))
    for key, field in type(run.task).model_fields.items():
        if key != "name" and not field.is_required():
            start[f"task.{key}"] = json.loads(json.dumps(field.get_default(call_default_factory=True), default=list))
    start["task.name"] = RunSpec().task.name
    changed = [key for key, value in wanted.items() if value is not None and value != start.get(key)]
    if "task.name" not in changed and any(key.startswith("task.") for key in changed):
        changed = ["task.name", *changed]  # the task's other keys mean nothing without it
    return [word for key in changed for word in ("--set", f"{key}={_text(key, wanted[key])}")]


def _text(key: str, value: Any) -> str:
    """Return a value as `--set` reads it: a bare word where that means the text."""
    from workers.ablation import parse_override

    if isinstance(value, str):
        return value if parse_override(f"{key}={value}")[1] == value else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


class Launcher:
    """What the terminal UI needs to queue a run, each by a process of its own: what that loads must not stop the screen."""

    def __init__(self, paths: HomePaths) -> None:
        self.paths = paths

    def options(self, spec: Mapping[str, Any]) -> list[str]:
        """Return the options of `mambalab run` for a spec. Raises ValueError, with why, for one that is not valid."""
        found = _process(["-c", OPTIONS], json.dumps(spec))
        if found.returncode:
            raise ValueError(found.stderr.strip())
        options: list[str] = json.loads(found.stdout)
        return options

    def submit(self, words: Sequence[str]) -> None:
        """Carry a `mambalab` command out. Raises OSError, with what it said, where it fails."""
        done = _process(["-m", "app", "--home", str(self.paths.root), *words])
        if done.returncode:
            raise OSError(done.stderr.strip() or f"{shlex.join(words)} ended with {done.returncode}")


def _process(words: Sequence[str], given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], input=given, capture_output=True, text=True, check=False)
