"""The linter sees the static graph; these prove that deferred imports really are deferred."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

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
        ("import app.main", HEAVY),
        ("import workers.specs, workers.ablation", HEAVY),
        ("import storage.queries, storage.home, storage.status, storage.ids, storage.errors", HEAVY | {"pydantic"}),
        ("import storage.repository", {"torch", "ray", "textual"}),
        ("import workers.jobs.submission", {"torch", "ray", "textual"}),
        ("import workers.jobs.worker", {"ray", "textual", "sqlmodel"}),
        ("import workers.models, workers.tasks, workers.training", {"ray", "textual", "sqlmodel"}),
        ("import kernels.selective_scan, kernels.causal_conv1d, kernels.rms_norm", {"ray", "textual", "sqlmodel"}),
        ("import tui.app", {"torch", "ray", "sqlmodel", "triton"}),
    ],
    ids=lambda value: value.removeprefix("import ") if isinstance(value, str) else None,
)
def test_import_does_not_load(statement: str, forbidden: set[str]) -> None:
    assert loaded_by(statement) & forbidden == set()


@pytest.mark.parametrize("arguments", [["--help"], ["ls", "--help"], ["presets"], ["--version"]], ids=" ".join)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    assert (
        loaded_by(f"import app.main\ntry:\n    app.main.run({arguments!r})\nexcept SystemExit:\n    pass") & HEAVY
        == set()
    )


def test_importing_starts_no_cuda() -> None:
    code = "import kernels.selective_scan, workers.models, workers.training, torch; print(torch.cuda.is_initialized())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
