"""The whole job in one process (`--executor inline`), through the console script."""

from __future__ import annotations

import csv
import io
import os
import pty
import re
from pathlib import Path

import pytest

from tests.e2e.cli import TINY, Folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, str]:
    """A folder in which the tiny ablation has run, and the ablation's id."""
    folder = Folder(tmp_path_factory.mktemp("lab"))
    (folder.path / "tiny.toml").write_text(TINY)
    submitted = folder.json("submit", "tiny.toml", "--executor", "inline")
    assert len(submitted["run_ids"]) == 4
    return folder, submitted["ablation_id"]


def test_every_run_has_completed(done: tuple[Folder, str]) -> None:
    folder, ablation_id = done
    runs = folder.json("ls", "--ablation", "tiny")
    assert [(run["trial_label"], run["seed"], run["status"], run["step"]) for run in runs] == [
        ("s6", 0, "completed", 4),
        ("s6", 1, "completed", 4),
        ("s4d", 0, "completed", 4),
        ("s4d", 1, "completed", 4),
    ]
    assert {run["ablation_id"] for run in runs} == {ablation_id}


def test_the_table_is_the_mean_of_what_the_runs_reported(done: tuple[Folder, str]) -> None:
    folder, _ = done
    values = {(run["trial_label"], run["seed"]): run["metrics"]["valid/accuracy"] for run in folder.json("ls", "--all")}
    table = folder.json("table", "tiny")
    for cell in table["cells"]:
        label = cell["labels"]["model.inner"]
        assert cell["n"] == 2
        assert cell["mean"] == pytest.approx((values[label, 0] + values[label, 1]) / 2)
    rows = list(csv.DictReader(io.StringIO(folder.call("table", "tiny", "--format", "csv"))))
    assert [float(row["mean"]) for row in rows] == [cell["mean"] for cell in table["cells"]]


def test_plain_sql_reads_the_curves(done: tuple[Folder, str]) -> None:
    folder, _ = done
    sql = "SELECT run, COUNT(*) AS points FROM v_metrics WHERE key = 'train/loss' GROUP BY run"
    assert [row["points"] for row in folder.json("query", sql)] == [4, 4, 4, 4]


def test_a_run_is_shown_with_all_that_it_ran_with(done: tuple[Folder, str]) -> None:
    folder, _ = done
    run_id = folder.json("ls")[0]["id"]
    run = folder.json("show", run_id[:9])
    assert run["id"] == run_id
    assert run["spec"]["task"]["name"] == "copying"
    assert run["facts"]["hardware"]["device"] == "cpu"
    assert run["facts"]["implementation"]
    assert run["provenance"]["command"].startswith("mambalab submit tiny.toml")
    assert run["provenance"]["versions"]["torch"]
    assert [attempt["status"] for attempt in run["attempts"]] == ["completed"]
    assert run["checkpoints"][-1]["step"] == 4
    assert (folder.path / ".mambalab" / "runs" / run_id / run["checkpoints"][-1]["path"]).is_dir()


def test_a_run_that_fails_keeps_its_traceback_and_stops_no_other(tmp_path: Path) -> None:
    """Triton cannot run on a CPU: what was asked for explicitly fails instead of falling back."""
    folder = Folder(tmp_path)
    spec = TINY.replace(
        'key = "model.inner"\nvalues = ["s6", "s4d"]', 'key = "model.implementation"\nvalues = ["triton", "auto"]'
    )
    (tmp_path / "failing.toml").write_text(spec.replace("seeds = [0, 1]", "seeds = [0]"))
    text = folder.call(
        "submit",
        "failing.toml",
        "--executor",
        "inline",
        "--set",
        "resources.max_attempts=1",
        "--set",
        "train.device='cpu'",
        code=1,
    )
    assert "failed" in text
    runs = {run["trial_label"]: run for run in folder.json("ls")}
    assert runs["auto"]["status"] == "completed"
    assert runs["triton"]["status"] == "failed"
    shown = folder.call("show", runs["triton"]["id"])
    assert "Traceback (most recent call last)" in shown
    assert "UnsupportedError" in shown


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    Folder(tmp_path).call("submit", "tiny.toml", "--set", "model.d_sate=8", code=2)
    assert not (tmp_path / ".mambalab").exists()


def test_a_reader_that_leaves_early_is_no_failure(done: tuple[Folder, str]) -> None:
    folder, _ = done
    sql = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 200000) SELECT x FROM n"
    with folder.started("query", sql, "--limit", "0") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "x\n"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


@pytest.mark.parametrize("colourless", [False, True], ids=["colours", "NO_COLOR"])
def test_a_terminal_gets_colours_unless_it_says_no(done: tuple[Folder, str], colourless: bool) -> None:
    folder, _ = done
    shown = in_a_terminal(folder, ["table", "tiny"], {"NO_COLOR": "1"} if colourless else {})
    assert "model.inner = s6" in shown
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)) is not colourless


def in_a_terminal(folder: Folder, words: list[str], extra: dict[str, str]) -> str:
    """Return what a command writes to a terminal of its own."""
    from tests.e2e.cli import SCRIPT

    pid, terminal = pty.fork()
    if pid == 0:  # the child, with the terminal as its stdin, stdout and stderr
        os.chdir(folder.path)
        environment = {**folder.environment, "TERM": "xterm-256color", "COLUMNS": "100", **extra}
        os.execve(SCRIPT, [str(SCRIPT), *words], environment)
    written = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other side has closed
            break
        if not piece:
            break
        written += piece
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return written.decode()


def test_what_was_followed_ends_with_a_table_of_each_metric_that_the_ablation_names(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    also = 'direction = "max"\nalso = ["valid/sequence_accuracy", "valid/bpb"]'
    (tmp_path / "two.toml").write_text(TINY.replace('direction = "max"', also))
    _, *tables = folder.call("submit", "two.toml", "--executor", "inline", "--follow").splitlines()
    header, *cells = folder.call("table", "two", "--metric", "valid/sequence_accuracy").splitlines()
    # copying has no bits per byte: a metric that no run has logged gets no table
    assert [line for line in tables if line == header] == [header, header]
    assert tables[-len(cells) :] == cells
