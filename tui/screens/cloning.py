"""A new run from an old one: its spec in $EDITOR, then the command that queues what was written."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.app import SuspendNotSupported

from tui.describe import run_title
from tui.screens.confirm import ConfirmScreen
from tui.toml import to_toml, without_unset

if TYPE_CHECKING:
    from storage.rows import RunRow
    from tui.app import MambaLab

HEAD = "# A run like {title}. Save and leave the editor to go on; leave it unchanged to queue nothing.\n\n"


def clone_with_edits(lab: MambaLab, run: RunRow) -> None:
    """Have the run's spec edited, and ask whether to queue the result."""
    spec = without_unset(json.loads(run.spec_json))
    what = f"clone {run_title(run)}"
    try:
        edited = tomllib.loads(_in_editor(lab, HEAD.format(title=run_title(run)) + to_toml(json.loads(run.spec_json))))
    except (OSError, ValueError, SuspendNotSupported) as error:
        lab.notify(str(error), title=what, severity="error", timeout=8, markup=False)
        return
    if edited == spec:
        lab.notify("nothing was changed, so nothing is queued", title=what)
        return
    lab.run_worker(partial(_plan, lab, what, edited, run.name), thread=True, group="control", exit_on_error=False)


def _in_editor(lab: MambaLab, text: str) -> str:
    """Return what the user makes of a text. Raises OSError where the editor does not start or does not end well."""
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="mambalab-") as folder:
        path = Path(folder) / "run.toml"
        path.write_text(text, encoding="utf-8")
        with lab.suspend():
            ended = subprocess.run([*editor, str(path)], check=False)
        if ended.returncode:
            raise OSError(f"{editor[0]} ended with {ended.returncode}, so nothing is queued")
        return path.read_text(encoding="utf-8")


def _plan(lab: MambaLab, what: str, spec: dict[str, Any], name: str) -> None:
    """Work out the command, which takes a moment: on a thread."""
    assert lab.launcher is not None
    try:
        words = ["run", "--detach", "--name", name, *lab.launcher.options(spec)]
    except (OSError, ValueError) as error:
        lab.call_from_thread(lab.notify, str(error), title=what, severity="error", timeout=12, markup=False)
    else:
        lab.call_from_thread(_ask, lab, what, words)


def _ask(lab: MambaLab, what: str, words: Sequence[str]) -> None:
    line, launcher = lab.command(*words), lab.launcher
    lab.copy_to_clipboard(line)

    def answer(yes: bool | None) -> None:
        if yes and launcher is not None:
            lab.control(what, line, lambda: launcher.submit(words))
        else:
            lab.log_command(f"{what}, not queued", line)
            lab.notify("not queued; the command is copied", title=what)

    lab.push_screen(ConfirmScreen("Queue this run? Its command is copied.", line), answer)
