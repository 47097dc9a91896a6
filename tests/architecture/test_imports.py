"""The linter sees the static graph; these prove that deferred imports really are deferred."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from storage.home import HomePaths
from storage.sample import fill_store

HEAVY = {"torch", "ray", "textual", "sqlmodel", "sqlalchemy", "alembic", "triton", "numpy"}


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after a statement."""
    code = (
        f"{statement}\nimport sys, json; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import app.main", HEAVY | {"pydantic", "rich"}),
        ("import workers.specs, workers.ablation", HEAVY),
        ("import storage.queries, storage.home, storage.status, storage.ids, storage.errors", HEAVY | {"pydantic"}),
        ("import storage.repository", {"torch", "ray", "textual"}),
        ("import workers.jobs.submission", {"torch", "ray", "textual"}),
        ("import workers.jobs.worker", {"ray", "textual", "sqlmodel"}),
        ("import workers.models, workers.tasks, workers.training", {"ray", "textual", "sqlmodel"}),
        ("import kernels.selective_scan, kernels.causal_conv1d, kernels.rms_norm", {"ray", "textual", "sqlmodel"}),
        ("import tui.app", {"torch", "ray", "sqlmodel", "triton", "aiohttp", "pynvml"}),
    ],
    ids=lambda value: value.removeprefix("import ") if isinstance(value, str) else None,
)
def test_import_does_not_load(statement: str, forbidden: set[str]) -> None:
    assert loaded_by(statement) & forbidden == set()


def loaded_by_command(arguments: list[str]) -> set[str]:
    """Return the top-level modules that a command which succeeds has loaded at its end."""
    return loaded_by(
        "import app.main\n"
        f"try:\n    app.main.run({arguments!r})\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["ls", "--help"], ["presets"], ["--version"]], ids=" ".join)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by_command(arguments) & HEAVY == set()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> HomePaths:
    """A store with an ablation in it."""
    paths = HomePaths(tmp_path_factory.mktemp("home"))
    fill_store(paths, runs=24, points=2)
    return paths


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "--limit", "5"],
        ["ls", "ablations", "--json"],
        ["cluster"],
        ["show", "selective-copying"],
        ["table", "selective-copying"],
        ["table", "selective-copying", "--format", "latex"],
        ["query", "SELECT * FROM v_runs LIMIT 5"],
    ],
    ids=" ".join,
)
def test_commands_that_read_load_nothing_heavy(home: HomePaths, arguments: list[str]) -> None:
    """Not even what Typer itself would load to coerce the options (app/coercion.py)."""
    assert loaded_by_command(["--home", str(home.root), *arguments]) & (HEAVY | {"pydantic", "rich"}) == set()


def test_listing_without_a_filter_does_not_load_the_filter(home: HomePaths) -> None:
    listing = ["--home", str(home.root), "ls"]
    assert "tui" not in loaded_by_command(listing)
    filtered = loaded_by_command([*listing, "--where", "status=failed and model.d_state>8"])
    assert "tui" in filtered
    assert filtered & HEAVY == set()


def test_one_verb_does_not_import_another() -> None:
    code = (
        "import app.main, sys\ntry:\n    app.main.run(['--home', '/nowhere', 'ls'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.startswith('app.commands.')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(ast.literal_eval(result.stdout)) == ["app.commands.ls", "app.commands.options"]


def test_submitting_waits_for_neither_torch_nor_ray(tmp_path: Path) -> None:
    loaded = loaded_by(
        "import app.main\nimport workers.jobs.submission as submission\n"
        "submission.ensure_controller = lambda *_: None\n"
        f"try:\n    app.main.run(['--home', {str(tmp_path / 'home')!r}, 'submit', 'demo'])\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code"
    )
    assert loaded & {"torch", "ray", "textual", "numpy", "triton"} == set()


def test_importing_starts_no_cuda() -> None:
    code = "import kernels.selective_scan, workers.models, workers.training, torch; print(torch.cuda.is_initialized())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
