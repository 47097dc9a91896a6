"""Provenance: the commit, the change, and no secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.jobs import provenance
from workers.jobs.launch import with_this_code
from workers.jobs.provenance import capture


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit; the program itself is as if installed elsewhere."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "installed")
    (tmp_path / "installed").mkdir()
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "model.py").write_text("depth = 1\n")
    (folder / ".env").write_text("PASSWORD=old\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "my_Token.txt").write_text("old\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_checkout(checkout: Path) -> None:
    got = capture("mambalab submit x", checkout)
    assert (got.git_sha, got.git_dirty, got.git_diff) == (git(checkout, "rev-parse", "HEAD"), False, None)
    assert (got.command, got.directory) == ("mambalab submit x", str(checkout))
    assert got.python == sys.version.split()[0]
    assert got.versions["ray"].startswith("2.")
    assert "torch" in got.versions
    assert got.hostname


def test_changes_of_tracked_files_are_kept_and_nothing_else(checkout: Path) -> None:
    (checkout / "model.py").write_text("depth = 2\n")
    (checkout / "staged.py").write_text("new = True\n")
    git(checkout, "add", "staged.py")
    (checkout / "untracked.py").write_text("private = 'untracked'\n")
    (checkout / ".env").write_text("PASSWORD=hunter2\n")
    (checkout / "sub" / "my_Token.txt").write_text("hunter2\n")
    got = capture("c", checkout / "sub")
    assert got.git_dirty is True
    assert got.git_diff is not None
    assert "+depth = 2" in got.git_diff
    assert "+new = True" in got.git_diff
    assert "untracked" not in got.git_diff
    assert "hunter2" not in got.git_diff


def test_untracked_files_alone_leave_a_checkout_clean(checkout: Path) -> None:
    (checkout / "results.csv").write_text("1\n")
    assert capture("c", checkout).git_dirty is False


def test_a_huge_diff_is_cut_and_says_so(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "DIFF_LIMIT", 200)
    (checkout / "model.py").write_text("".join(f"line {n}\n" for n in range(1000)))
    diff = capture("c", checkout).git_diff
    assert diff is not None
    assert len(diff) < 300
    assert "cut here: the diff has" in diff


def test_the_programs_own_checkout_comes_before_the_current_folder(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "workers" / "jobs").mkdir(parents=True)
    (checkout / "workers" / "jobs" / "provenance.py").write_text("\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(provenance, "ROOT", checkout)
    assert capture("c", elsewhere).git_sha is None  # it lies in a checkout that does not track it
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "second")
    assert capture("c", elsewhere).git_sha == git(checkout, "rev-parse", "HEAD")


def test_without_git_or_commit_there_is_none(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    got = capture("c", plain)
    assert (got.git_sha, got.git_dirty, got.git_diff) == (None, None, None)
    git(plain, "init", "-q")
    assert capture("c", plain).git_sha is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert capture("c", checkout).git_sha is None


def test_versions_are_known_without_loading_anything() -> None:
    code = "from workers.jobs.provenance import capture; capture('c'); import sys; print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=with_this_code(os.environ)
    )
    assert done.stdout == "False False\n"
