"""Following runs to their end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from app.errors import CommandError, ExitCode
from app.follow import BARS_SHOWN, Bars, Lines, follow, most_telling
from storage.queries import Reader, RunRow
from storage.records import AttemptEnd
from storage.repository import Repository
from storage.status import AttemptStatus

if TYPE_CHECKING:
    from tests.unit.app.conftest import Lab


def row(run_id: str, status: str, *, step: int = 0, finished_at: float | None = None) -> RunRow:
    """Return a run as the store would."""
    return RunRow(
        num=1,
        id=run_id,
        ablation_id=None,
        ablation=None,
        name="alone",
        trial_index=0,
        trial_label="s6 [1]",
        axis_labels={},
        axis_values={},
        seed=3,
        status=status,
        step=step,
        total_steps=10,
        attempt=1,
        max_attempts=1,
        priority=0,
        reason=None,
        error=None,
        created_at=0.0,
        started_at=None,
        finished_at=finished_at,
        heartbeat_at=None,
        archived=False,
        tags=(),
        metrics={"valid/accuracy": 0.5},
    )


def test_following_ends_with_the_last_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finish(_: float) -> None:
        with Repository(lab.paths) as store:
            assert store.finish_attempt(lab.single, 1, AttemptEnd(AttemptStatus.COMPLETED, 120.0))

    monkeypatch.setattr("app.follow.sleep", finish)
    monkeypatch.setattr("workers.jobs.submission.controller_alive", lambda _: True)
    code = follow(lab.paths, lambda reader: [reader.run(lab.single)], "valid/accuracy")
    assert code is ExitCode.DONE
    assert capsys.readouterr().err.splitlines() == [
        f"0/1  {lab.single}  alone · seed 7  running  accuracy 0.5",
        f"1/1  {lab.single}  alone · seed 7  completed  accuracy 0.5",
    ]


def test_a_run_that_failed_fails_the_whole(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    def select(reader: Reader) -> Sequence[RunRow]:
        return [reader.run(run_id) for run_id in lab.runs[:3]]

    assert follow(lab.paths, select, "valid/accuracy") is ExitCode.FAILED
    assert f"ZeroDivisionError: one  (`mambalab show {lab.runs[2]}` has the traceback)" in capsys.readouterr().err


def test_without_a_controller_it_does_not_wait_for_ever(lab: Lab) -> None:
    with pytest.raises(CommandError, match="has ended before the runs did"):
        follow(lab.paths, lambda reader: [reader.run(lab.single)], "valid/accuracy")


def test_bars_show_status_and_metric(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Bars("valid/accuracy") as bars:
        bars.show([row("a", "running", step=5), row("b", "queued")])
        bars.show([row("a", "completed", step=10, finished_at=1.0), row("b", "failed", step=3, finished_at=2.0)])
    shown = capsys.readouterr().err
    for told in ("all runs", "2/2", "s6 [1] · seed 3", "10/10", "completed", "failed", "accuracy 0.5"):
        assert told in shown


def test_runs_at_work_come_before_others() -> None:
    runs = [row("q", "queued"), *(row(f"c{at}", "completed", finished_at=float(at)) for at in range(20))]
    runs.append(row("r", "running"))
    shown = [run.id for run in most_telling(runs, BARS_SHOWN)]
    assert shown[:3] == ["r", "c19", "c18"]
    assert len(shown) == BARS_SHOWN
    assert "q" not in shown


def test_lines_are_written_for_changes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("valid/accuracy")
    lines.show([row("a", "queued")])
    lines.show([row("a", "queued", step=1)])
    lines.show([row("a", "running", step=2)])
    assert len(capsys.readouterr().err.splitlines()) == 2
