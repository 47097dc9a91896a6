"""Where a submission came from: commit, uncommitted changes, command, versions. Imports none of what it describes."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from storage.records import NewProvenance
from workers.jobs.launch import ROOT

PACKAGES = ("mambalab", "torch", "triton", "ray", "numpy", "pydantic", "safetensors", "sqlmodel", "sqlalchemy")
DIFF_LIMIT = 512 * 1024  # characters; a larger diff is data, not code
GIT_TIMEOUT_S = 10.0
# Tracked files that may hold secrets: their changes are left out
SECRETIVE = (
    ".env*",
    "*.pem",
    "*.key",
    "*.p12",
    "*credential*",
    "*secret*",
    "*token*",
    "id_rsa*",
    "id_ed25519*",
    ".netrc",
)


def capture(command: str, directory: Path | None = None) -> NewProvenance:
    """Return the provenance of a submission made by a command.

    Commit and diff are the program's own checkout's, since that is the code that runs; for an installed program, those
    of the folder in which the command was given. The diff holds tracked files alone, bounded, without likely secrets.
    """
    here = directory or Path.cwd()
    checkout = _checkout(ROOT, must_track="workers/jobs/provenance.py") or _checkout(here)
    sha = diff = None
    dirty: bool | None = None
    if checkout is not None:
        sha = _git(checkout, "rev-parse", "--verify", "HEAD")
        changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
        dirty = None if changes is None else bool(changes)
        diff = _diff(checkout) if dirty and sha else None
    return NewProvenance(
        command=command,
        directory=str(here.absolute()),
        hostname=socket.gethostname(),
        python=platform.python_version(),
        versions=installed_versions(),
        git_sha=sha,
        git_dirty=dirty,
        git_diff=diff,
    )


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that decide what a run computes, of the Python that would run it."""
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    versions["platform"] = platform.platform()
    return versions


def _checkout(folder: Path, *, must_track: str | None = None) -> Path | None:
    """Return the root of the git checkout around a folder; with `must_track`, only where it tracks that file of it.

    A program installed into a virtual environment lies inside somebody's checkout without being part of it.
    """
    if must_track is not None and _git(folder, "ls-files", "--error-unmatch", must_track) is None:
        return None
    top = _git(folder, "rev-parse", "--show-toplevel")
    return Path(top) if top else None


def _diff(checkout: Path) -> str | None:
    left_out = [f":(exclude,icase,glob)**/{pattern}" for pattern in SECRETIVE]
    options = ("--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short")
    diff = _git(checkout, "diff", *options, "HEAD", "--", ".", *left_out)
    if diff is None or len(diff) <= DIFF_LIMIT:
        return diff
    return f"{diff[:DIFF_LIMIT]}\n[cut here: the diff has {len(diff):,} characters]\n"


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, without the last newline; None where there is no git, no checkout, or no answer."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").rstrip("\n") if done.returncode == 0 else None
