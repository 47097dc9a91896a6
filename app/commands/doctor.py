"""`mambalab doctor`: what this machine offers, and whether the store is well."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.options import Json
from app.errors import ExitCode


def doctor(
    context: typer.Context,
    *,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Also compute with every op and compare with the float64 reference.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check Python, packages, GPU, kernels, store, controller and Ray. Starts nothing; exit code 1 when something is broken."""
    from app.console import data_json, say, table
    from app.grid import BAD, CAUTION, GOOD, Grid, Layout
    from app.health import examine, parity
    from app.home import home_paths

    checks = [*examine(home_paths(context)), *(parity() if kernels else ())]
    broken = [check for check in checks if check.state == "broken"]
    if as_json:
        data_json(
            {
                "ok": not broken,
                "checks": [{"name": check.name, "state": check.state, "detail": check.detail} for check in checks],
            }
        )
    else:
        rows = [[check.name, check.state, check.detail] for check in checks]
        styles = {
            (place, 1): {"ok": GOOD, "note": CAUTION, "broken": BAD}[check.state] for place, check in enumerate(checks)
        }
        table(Grid(["check", "state", "detail"], rows, Layout(wrap="detail"), styles))
    if broken:
        say(f"broken: {', '.join(check.name for check in broken)}")
        raise typer.Exit(ExitCode.FAILED)
