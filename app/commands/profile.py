"""`mambalab profile`: where the time of a run's training steps goes, kernel by kernel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import Json, Overrides
from app.errors import bad_input

if TYPE_CHECKING:
    from workers.specs import RunSpec
    from workers.training.measuring import Anatomy, Rate, Rig

LONGEST = 10


def profile(
    context: typer.Context,
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="A run by a unique prefix of its id. Default: the defaults.", show_default=False
        ),
    ] = None,
    *,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="How many steps to look at.")] = 5,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write the trace, which Perfetto and chrome://tracing open. Default: profile-NAME.json here, NAME the "
            "run's id or the task.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Time a run's training steps, print its ten longest kernels, and write a trace.

    The steps are those of a fresh start with the run's spec; the run itself is left alone. On a CPU operators stand for kernels.
    """
    from app.console import data_json, say, table
    from workers.training.determinism import reproducible
    from workers.training.measuring import Rig, measure_rate, take_apart
    from workers.training.precision import place

    name, spec = _spec(context, ref, overrides or [])
    trace = trace or Path(f"profile-{name}.json")
    if not trace.absolute().parent.is_dir():
        bad_input(f"--trace: {trace.parent} is no folder")
    placement = place(spec)
    with reproducible(placement):
        rig = Rig(spec, placement)
        rig.settle()
        rate = measure_rate(rig, budget_s=0.5)
        anatomy = take_apart(rig, steps, trace=trace)
    facts = _facts(rig, rate, anatomy)
    if as_json:
        data_json({**facts, "trace": str(trace), "kernels": _kernels(anatomy)})
        return
    say(_sentence(rig, rate, anatomy))
    table(_grid(anatomy))
    say(f"written to {trace}; open it at https://ui.perfetto.dev")


def _spec(context: typer.Context, ref: str | None, overrides: list[str]) -> tuple[str, RunSpec]:
    """Return what to call it, and the spec: of a run, or of the defaults."""
    from app.plan import with_absolute_paths
    from workers.ablation import build_run

    if ref is None:
        spec = with_absolute_paths(build_run(overrides), Path.cwd())
        return spec.task.name, spec
    from app.home import reader
    from app.refs import one_run

    with reader(context) as store:
        run_id = one_run(store, ref, "profile")
        base = store.run_spec(run_id)
    return run_id, build_run(overrides, base=base, source=f"{run_id}: spec")


def _facts(rig: Rig, rate: Rate, anatomy: Anatomy) -> dict[str, Any]:
    mode, why = rig.mode()
    busy = anatomy.busy_microseconds
    return {
        "device": str(rig.placement.device),
        "precision": rig.placement.precision,
        "mode": mode,
        "why": why,
        "parameters": rig.parameters,
        "steps_per_s": rate.median,
        "tokens_per_s": rate.median * rig.tokens,
        "kernels_per_step": anatomy.launches,
        "busy_us_per_step": busy,
        "idle": max(0.0, 1 - busy * rate.median / 1e6) if rig.placement.device.type == "cuda" else None,
    }


def _kernels(anatomy: Anatomy) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "calls_per_step": one.calls, "us_per_step": one.microseconds}
        for one in anatomy.kernels[:LONGEST]
    ]


def _sentence(rig: Rig, rate: Rate, anatomy: Anatomy) -> str:
    facts = _facts(rig, rate, anatomy)
    what = "operators" if facts["idle"] is None else "kernels"
    idle = "" if facts["idle"] is None else f", GPU idle {facts['idle']:.0%}"
    mode = facts["mode"] if not facts["why"] else f"{facts['mode']}: {facts['why']}"
    return (
        f"{facts['parameters']:,} parameters on {facts['device']} in {facts['precision']} ({mode}): "
        f"{facts['steps_per_s']:,.1f} steps/s, {facts['tokens_per_s']:,.0f} tokens/s{idle}; "
        f"{facts['kernels_per_step']:,.0f} {what} a step"
    )


def _grid(anatomy: Anatomy) -> Any:
    from app.grid import Grid, Layout

    whole = sum(kernel.microseconds for kernel in anatomy.kernels)
    rows = [
        [f"{one.microseconds:,.1f}", f"{one.microseconds / whole:.0%}", f"{one.calls:g}", one.name]
        for one in anatomy.kernels[:LONGEST]
    ]
    columns = ["us a step", "share", "calls", "kernel"]
    return Grid(columns, rows, Layout(right=columns[:3], shrink=["kernel"]))
