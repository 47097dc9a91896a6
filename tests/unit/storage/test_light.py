"""The read side starts at once: it loads the standard library and nothing else."""

from __future__ import annotations

import json

import pytest

from tests.unit.storage.lab import start_python

HEAVY = {"sqlmodel", "sqlalchemy", "alembic", "pydantic", "torch", "ray", "numpy", "rich", "typer", "textual"}
LIGHT = ("queries", "matrix", "sql", "control", "export", "home", "errors", "ids", "status", "connect", "records")


@pytest.mark.parametrize("module", ["all of them", *LIGHT])
def test_import_loads_no_other_package(module: str) -> None:
    modules = [f"storage.{name}" for name in (LIGHT if module == "all of them" else (module,))]
    code = (
        f"import json, sys, {', '.join(modules)}; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    )
    output, error = start_python(code).communicate()
    assert set(json.loads(output)) & HEAVY == set(), error
