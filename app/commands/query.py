"""`mambalab query`: read-only SQL on the store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from app.commands.options import Json
from app.errors import bad_input

FORMATS = ("table", "csv", "json")


def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One statement that only reads; - reads it from stdin.")],
    *,
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "table",
    as_json: Json = False,
    limit: Annotated[int, typer.Option(min=0, help="How many rows at most; 0 for no limit.")] = 1000,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which the query is given up.")] = 30.0,
) -> None:
    """Answer SQL. The views v_runs, v_metrics, v_latest and v_ablation read well; the tables are there too."""
    from app.console import data_json, say
    from app.home import home_paths
    from storage.sql import run_query

    if form not in FORMATS:
        bad_input(f"--format: got {form!r}, expected one of {', '.join(FORMATS)}")
    statement = sys.stdin.read() if sql == "-" else sql
    result = run_query(home_paths(context), statement, limit=limit or None, timeout_s=timeout)
    if as_json or form == "json":
        names = _distinct(result.columns)
        data_json([dict(zip(names, map(_plain, row), strict=True)) for row in result.rows])
    elif form == "csv":
        _print_csv(result.columns, result.rows)
    else:
        _print_table(result.columns, result.rows)
    if result.truncated:
        say(f"only the first {len(result.rows)} rows; --limit 0 returns all")


def _distinct(columns: Sequence[str]) -> list[str]:
    """Return the columns' names, each once: an object of JSON would keep only the last of those that share one."""
    names: list[str] = []
    for column in columns:
        name, place = column, 1
        while name in names or (place > 1 and name in columns):
            place += 1
            name = f"{column}_{place}"
        names.append(name)
    return names


def _print_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    import csv
    import io

    from app.console import data

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_plain(value) for value in row] for row in rows)
    data(text.getvalue())


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from app.console import table
    from app.grid import Grid, Layout

    numeric = [
        name for place, name in enumerate(columns) if all(isinstance(row[place], int | float | None) for row in rows)
    ]
    cells = [[_cell(value) for value in row] for row in rows]
    table(Grid(columns, cells, Layout(right=numeric, shrink=[name for name in columns if name not in numeric])))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(_plain(value))
    if not sys.stdout.isatty():
        return f"{value:.12g}"  # for a program, as exact as a time in seconds needs
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.10g}"


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
