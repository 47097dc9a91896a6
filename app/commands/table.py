"""`mambalab table`: an ablation's result, mean ± std (n) over its seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import bad_input

if TYPE_CHECKING:
    from storage.queries import AblationRow
    from storage.rows import RunRow

FORMATS = ("text", "md", "csv", "latex", "json")


def table(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(help="An ablation: its name, or a unique prefix of its id.")],
    *,
    metric: Annotated[
        str | None, typer.Option(metavar="KEY", help="Another metric than the deciding one.", show_default=False)
    ] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="AXIS,...", help="Axes that make the rows.", show_default=False)
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="AXIS,...", help="Axes that make the columns.", show_default=False)
    ] = None,
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "text",
    check: Annotated[
        bool, typer.Option("--check", help="Beside the paper's numbers, and which of its claims hold; 1 if one fails.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print an ablation's matrix; the best mean is bold, and only completed runs count."""
    from app.home import reader
    from app.matrices import print_matrix, title_of
    from storage.matrix import build_matrix

    if form not in FORMATS:
        bad_input(f"--format: got {form!r}, expected one of {', '.join(FORMATS)}")
    with reader(context) as store:
        ablation = store.ablation(store.resolve_ablation(ref))
        runs = store.runs(ablation_id=ablation.id, include_archived=ablation.archived)
    if check:
        _check_paper(ablation, runs, "json" if as_json else form)
        return
    _check_metric(metric, {key for run in runs for key in run.metrics})
    _check_axes(ablation.axes, _split(rows), "--rows")
    _check_axes(ablation.axes, _split(columns), "--columns")
    try:
        matrix = build_matrix(ablation, runs, metric=metric, rows=_split(rows), columns=_split(columns))
    except ValueError as error:
        bad_input(str(error))
    print_matrix(matrix, "json" if as_json else form, title=title_of(ablation))


def _check_paper(ablation: AblationRow, runs: list[RunRow], form: str) -> None:
    from app.paper import compare, print_comparison, published_of

    if form not in ("text", "md", "json"):
        bad_input(f"--check: got --format {form!r}, expected text, md or json")
    published = published_of(ablation)
    if published is None:
        bad_input(f"--check: {ablation.name} quotes no paper; its file would do so in a table [paper]")
    comparison = compare(ablation, published, runs)
    print_comparison(comparison, form)
    if any(verdict.outcome == "fails" for _, verdict in comparison.verdicts):
        raise typer.Exit(1)


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _check_metric(metric: str | None, known: set[str]) -> None:
    if metric is None or metric in known or not known:
        return
    bad_input(f"--metric: no run has {metric!r}.{_nearest(metric, known)}")


def _check_axes(axes: tuple[str, ...], named: list[str] | None, option: str) -> None:
    for axis in named or ():
        if axis not in axes:
            bad_input(f"{option}: no axis {axis!r}.{_nearest(axis, axes)}")


def _nearest(word: str, known: set[str] | tuple[str, ...]) -> str:
    from storage.lookup import nearest

    near = nearest(word, sorted(known))
    return f" Did you mean {near!r}?" if near else f" There are: {', '.join(sorted(known)) or 'none'}."
