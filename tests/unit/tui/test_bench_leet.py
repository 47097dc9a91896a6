"""The measurement of LEET: what it runs, and where it looks for it. LEET itself is stood in for by a small program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tui.bench_leet import find_leet, measure_leet, version_of

FAKE = """#!{python}
import sys, time, tty
if sys.argv[1:] == ["--version"]:
    print("wandb, version 0.31.0")
else:
    assert sys.argv[1] == "leet", sys.argv
    tty.setcbreak(0)
    sys.stdout.write("\\x1b]11;?\\x07")
    sys.stdout.flush()
    assert sys.stdin.read(1) == "\\x1b", "nobody answers"
    print("offline-run train/metric_0", flush=True)
    while sys.stdin.read(1):
        print("painted", flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a program that paints at once, and again at each key."""
    path = tmp_path / "bin" / "wandb"
    path.parent.mkdir()
    path.write_text(FAKE.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path


def test_it_is_found_on_the_path_or_not_at_all(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_leet() == program
    assert version_of(program) == "0.31.0"
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_leet() is None


def test_figures_have_names_and_end_before_the_quiet(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.bench_leet.QUIET_S", 0.2)
    for name in ("wandb-3x10x9", "wandb-1x20x9"):
        (tmp_path / name / "wandb").mkdir(parents=True)
    found = measure_leet(program, tmp_path, count=3, points=10, long=20)
    assert list(found) == ["first paint, 3 runs", "3 runs x 10 points x 9 charts", "1 run x 20 points x 9 charts"]
    assert found["first paint, 3 runs"]["once"] > 0
    assert found["3 runs x 10 points x 9 charts"]["from_key"] > 0
    assert found["1 run x 20 points x 9 charts"]["peak_bytes"] > 1_000_000
