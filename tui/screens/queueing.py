"""Runs that are queued from the terminal UI by `mambalab` commands: from a checkpoint, and with further seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tui.describe import run_title
from tui.screens.confirm import ConfirmScreen, PromptScreen

if TYPE_CHECKING:
    from storage.rows import AblationRow, RunRow
    from tui.app import MambaLab


def ask_for_checkpoint(lab: MambaLab, run: RunRow) -> None:
    """Ask from which step a new run should go on, and with which changes."""
    steps = lab.paths.run(run.id).checkpoint_steps()
    if not steps:
        lab.notify("it has no checkpoint on this machine; train.checkpoint_every writes them", title=f"resume {run_title(run)}",
                   severity="warning", markup=False)  # fmt: skip
        return
    last = steps[-1]
    over = run.total_steps is not None and last >= run.total_steps
    value = f"{last} train.steps={2 * last}" if over else str(last)
    hint = (
        f"checkpoints: {_few(steps)}\nthen what changes, KEY=VALUE such as train.lr=1e-4 · enter queues it · esc leaves"
    )

    def answer(text: str | None) -> None:
        if text:
            lab.attempt("resume", lambda: resume_from(lab, run, text))

    lab.push_screen(PromptScreen(f"Go on from a checkpoint of {run_title(run)}, as a new run", hint, value), answer)


def resume_from(lab: MambaLab, run: RunRow, text: str) -> None:
    """Queue a run that goes on from a checkpoint: `STEP KEY=VALUE ...`. Raises ValueError for another text."""
    step, *changes = text.split()
    steps = lab.paths.run(run.id).checkpoint_steps()
    if not step.isdecimal() or int(step) not in steps:
        raise ValueError(f"there is no checkpoint of step {step}; there are {_few(steps) or 'none'}")
    wrong = next((change for change in changes if "=" not in change), None)
    if wrong is not None:
        raise ValueError(f"expected KEY=VALUE, such as train.lr=1e-4, got {wrong}")
    sets = [word for change in changes for word in ("--set", change)]
    _submit(lab, f"resume {run_title(run)} from step {step}", ["resume", run.id, "--from", step, *sets, "--detach"])


def ask_for_seeds(lab: MambaLab, ablation: AblationRow) -> None:
    """Ask with which further seeds an ablation should run."""
    hint = f"its seeds: {_few(ablation.seeds)}\nso many further ones, or a list such as 7,8 · enter asks again before it queues"

    def answer(text: str | None) -> None:
        if text:
            lab.attempt("add seeds", lambda: add_seeds(lab, ablation, text))

    lab.push_screen(PromptScreen(f"Further seeds for {ablation.name}", hint, "2"), answer)


def add_seeds(lab: MambaLab, ablation: AblationRow, text: str) -> None:
    """Ask whether to queue an ablation with further seeds: `4`, or `7,8`. Raises ValueError for another text."""
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if not numbers or not all(number.isdecimal() for number in numbers) or numbers == ["0"]:
        raise ValueError(f"expected a count such as 2 or a list such as 7,8, got {text!r}")
    given = "," in text
    if given and (there := [number for number in numbers if int(number) in ablation.seeds]):
        raise ValueError(f"it has seed {there[0]} already; its seeds are {_few(ablation.seeds)}")
    count = len(numbers) if given else int(numbers[0])
    trials = ablation.runs_total // max(1, len(ablation.seeds))
    words = ["add-seeds", ablation.id, ",".join(numbers) + ("," if given and len(numbers) == 1 else "")]
    what = f"add seeds to {ablation.name}"

    def answer(yes: bool | None) -> None:
        if yes:
            _submit(lab, what, words)

    question = f"Queue {trials * count} runs of {ablation.name}: {trials} trials, {count} further seeds each?"
    lab.push_screen(ConfirmScreen(question, lab.command(*words)), answer)


def _submit(lab: MambaLab, what: str, words: Sequence[str]) -> None:
    launcher = lab.launcher
    assert launcher is not None  # the action says so before
    lab.notify("a command of its own queues it, which takes a few seconds", title=what, timeout=4, markup=False)
    lab.control(what, lab.command(*words), lambda: launcher.submit(words))


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[-8:]))
    return f"..., {shown}" if len(numbers) > 8 else shown
