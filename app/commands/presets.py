"""`mambalab presets`: the ablations that come with mambalab."""

from __future__ import annotations

from typing import Annotated

import typer

from app.console import data, data_json, table
from app.grid import Grid, Layout
from app.presets import find_ablation, preset_names


def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset's TOML, to copy and change.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the ablations that come with mambalab, or print one as TOML."""
    if name is not None:
        data(find_ablation(name).read_text(encoding="utf-8"))
        return
    import tomllib

    rows = []
    for preset in preset_names():
        tree = tomllib.loads(find_ablation(preset).read_text(encoding="utf-8"))
        axes = [axis.get("name") or axis.get("key") for axis in tree.get("axes", [])]
        rows.append(
            {"name": preset, "question": tree.get("question", ""), "axes": axes, "seeds": tree.get("seeds", [0])}
        )
    if as_json:
        data_json(rows)
        return
    listed = [[row["name"], " x ".join(row["axes"]), str(len(row["seeds"])), row["question"]] for row in rows]
    table(Grid(["preset", "axes", "seeds", "question"], listed, Layout(right=["seeds"], wrap="question")))
