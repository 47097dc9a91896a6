"""Actions on runs, shared by the screens that have runs under the cursor. All are requests or writes through storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from storage import control
from storage.rows import RunRow
from storage.status import RequestKind
from tui.describe import run_title
from tui.screens.base import LabScreen


class ControlScreen(LabScreen):
    """A screen that acts on runs."""

    def targets(self) -> list[RunRow]:
        """Return the runs that actions are about: the marked ones, or the one under the cursor."""
        return []

    def _of(self, *statuses: str) -> list[RunRow]:
        return [run for run in self.targets() if run.status in statuses]

    def _ask(self, question: str, hint: str, answer: Callable[[str | None], None], value: str = "") -> None:
        from tui.screens.confirm import PromptScreen

        self.lab.push_screen(PromptScreen(question, hint, value), answer)

    def do_cancel(self) -> None:
        """Ask, then request that the runs end."""
        runs = self._of("queued", "running")
        ids = [run.id for run in runs]
        line = self.lab.command("cancel", *ids, *(("--yes",) if len(ids) > 1 else ()))

        def answer(yes: bool | None) -> None:
            if yes:
                self.lab.control(
                    f"cancel {_named(runs)}",
                    line,
                    lambda: control.request(self.lab.paths, RequestKind.CANCEL, ids),
                    wakes="cancel",
                )

        from tui.screens.confirm import ConfirmScreen

        self.lab.push_screen(
            ConfirmScreen(f"Cancel {_named(runs)}? A running one saves a checkpoint first.", line), answer
        )

    def do_retry(self) -> None:
        """Request that the runs are queued again; where nobody works on the queue, have it gone on with."""
        runs = self._of("failed", "cancelled")
        waiting = self._of("queued") if self.snapshot.controller is False else []
        ids = [run.id for run in runs]

        def act() -> None:
            if ids:
                control.request(self.lab.paths, RequestKind.RETRY, ids)

        line = self.lab.command("retry", *ids, *(run.id for run in waiting))
        self.lab.control(f"retry {_named([*runs, *waiting])}", line, act, wakes="retry")

    def do_clone(self) -> None:
        """Have a copy of the run under the cursor edited, and queue it."""
        from tui.screens.cloning import clone_with_edits

        clone_with_edits(self.lab, self.targets()[0])

    def do_lens(self) -> None:
        """Look inside the layers of the run under the cursor."""
        from tui.screens.lens import LensScreen

        self.lab.push_screen(LensScreen(self.targets()[0].id))

    def do_resume(self) -> None:
        """Ask for a checkpoint of the run under the cursor, and queue a run that goes on from it."""
        from tui.screens.queueing import ask_for_checkpoint

        ask_for_checkpoint(self.lab, self.targets()[0])

    def take_resume(self, text: str) -> None:
        """Queue a run that goes on from a checkpoint."""
        from tui.screens.queueing import resume_from

        resume_from(self.lab, self.targets()[0], text)

    def do_priority(self) -> None:
        """Ask for a number, then request it."""
        runs = self._of("queued")

        def answer(text: str | None) -> None:
            if text is not None:
                self.lab.attempt("priority", lambda: self._prioritise(runs, text))

        hint = "a whole number; higher goes first · enter sets it · esc leaves"
        self._ask(f"Priority of {_named(runs)}", hint, answer, str(runs[0].priority))

    def take_priority(self, text: str) -> None:
        """Request a place in the queue."""
        self._prioritise(self._of("queued"), text)

    def _prioritise(self, runs: Sequence[RunRow], text: str) -> None:
        try:
            priority = int(text)
        except ValueError:
            raise ValueError(f"a priority is a whole number, got {text!r}") from None
        ids = [run.id for run in runs]
        self.lab.control(
            f"priority {priority} for {_named(runs)}",
            self.lab.command("priority", *ids, str(priority)),
            lambda: control.request(self.lab.paths, RequestKind.PRIORITY, ids, {"priority": priority}),
            wakes="priority",
        )

    def do_tag(self) -> None:
        """Ask for tags, then put them on or take them off."""
        runs = self.targets()
        tags = " ".join(sorted({tag for run in runs for tag in run.tags}))
        hint = (f"now: {tags} · " if tags else "") + "word adds, -word takes off · esc leaves"
        self._ask(f"Tags of {_named(runs)}", hint, lambda text: self._change_tags(runs, text or ""))

    def take_tag(self, text: str) -> None:
        """Put tags on the runs or take them off."""
        self._change_tags(self.targets(), text)

    def _change_tags(self, runs: Sequence[RunRow], text: str) -> None:
        ids = [run.id for run in runs]
        for name in text.split():
            if name.startswith("-"):
                self._untag(runs, ids, name[1:])
            else:
                self._tag(runs, ids, name.removeprefix("+"))

    def _tag(self, runs: Sequence[RunRow], ids: list[str], name: str) -> None:
        self.lab.control(
            f"tag {_named(runs)} {name}",
            self.lab.command("tag", *ids, name),
            lambda: control.add_tags(self.lab.paths, ids, [name]),
        )

    def _untag(self, runs: Sequence[RunRow], ids: list[str], name: str) -> None:
        self.lab.control(
            f"untag {_named(runs)} {name}",
            self.lab.command("untag", *ids, name),
            lambda: control.remove_tags(self.lab.paths, ids, [name]),
        )

    def do_note(self) -> None:
        """Ask for a remark on the run under the cursor and keep it."""
        run = self.targets()[0]
        title = f"Note on {run_title(run)}"
        self._ask(title, "enter keeps it · esc leaves", lambda text: self._keep_note(run, text or ""))

    def take_note(self, text: str) -> None:
        """Keep a remark on the run under the cursor."""
        self._keep_note(self.targets()[0], text)

    def _keep_note(self, run: RunRow, text: str) -> None:
        if text:
            self.lab.control(
                f"note on {run.id}",
                self.lab.command("note", run.id, text),
                lambda: control.add_note(self.lab.paths, run.id, text),
            )

    def do_archive(self) -> None:
        """Archive the runs; bring them back where all are archived already."""
        runs = self.targets()
        ids = [run.id for run in runs]
        archived = not all(run.archived for run in runs)
        undo = () if archived else ("--undo",)
        self.lab.control(
            f"{'archive' if archived else 'bring back'} {_named(runs)}",
            self.lab.command("archive", *undo, *ids),
            lambda: control.archive(self.lab.paths, ids, archived),
        )

    def do_copy_id(self) -> None:
        """Copy the ids of the runs."""
        self._copy(" ".join(run.id for run in self.targets()))

    def do_copy_command(self) -> None:
        """Copy the command that shows the run."""
        runs = self.targets()
        self._copy(self.lab.command("show", runs[0].id) if runs else "")


def _named(runs: Sequence[RunRow]) -> str:
    return f"{run_title(runs[0])} ({runs[0].id})" if len(runs) == 1 else f"{len(runs)} runs"
