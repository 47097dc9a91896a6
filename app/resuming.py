"""What `mambalab resume` does before anything is written: find the checkpoint, and the spec that goes on from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from app.errors import bad_input

if TYPE_CHECKING:
    from storage.home import HomePaths
    from storage.queries import RunRow
    from storage.records import Submitted
    from workers.jobs.submission import SubmitOptions
    from workers.specs import RunSpec
    from workers.training import Checkpoint


@dataclass(frozen=True, slots=True)
class Branch:
    """A run, the checkpoint of it to go on from, and the spec of the new run."""

    run_id: str
    name: str
    checkpoint: Checkpoint
    spec: RunSpec

    @property
    def origin(self) -> dict[str, Any]:
        """What the new run says it was made from."""
        return {"from_run": self.run_id, "from_step": self.checkpoint.step}


def plan_branch(context: typer.Context, ref: str, step: int | None, overrides: Sequence[str]) -> Branch:
    """Return what a new run would go on from. Imports torch: the checkpoint is read in full before it is relied upon.

    Ends with bad input where there is no such checkpoint.

    Raises:
        NotFound: no such run.
        SpecError, CheckpointError: a key that cannot be changed; a damaged checkpoint.
    """
    from app.home import home_paths, reader
    from app.refs import one_run
    from workers.ablation import build_run

    with reader(context) as store:
        run_id = one_run(store, ref, "resume")
        run, tree = store.run(run_id), store.run_spec(run_id)
    files = home_paths(context).run(run_id)
    folder, steps = files.checkpoints, files.checkpoint_steps()
    if not steps:
        bad_input(
            f"run {run_id} is {run.status} and has no checkpoint in {folder}. train.checkpoint_every writes them."
        )
    wanted = steps[-1] if step is None else step
    if wanted not in steps:
        bad_input(f"--from: run {run_id} has no checkpoint of step {wanted}; it has {', '.join(map(str, steps))}")
    spec = build_run(overrides, base=tree)
    _check_not_over(run, wanted, overrides)
    from workers.training.branching import check_branch
    from workers.training.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(folder / f"step-{wanted:06d}")
    check_branch(checkpoint, spec)
    return Branch(run_id, f"{run.name}@{wanted}", checkpoint, spec)


def _check_not_over(run: RunRow, step: int, overrides: Sequence[str]) -> None:
    """A run that ended early because it was good enough would end again at once."""
    changed = any(text.partition("=")[0].strip() in ("train.stop_at", "train.stop_metric") for text in overrides)
    if run.reason == "stop_at" and step == run.step and not changed:
        metric = run.config.get("train.stop_metric")
        bad_input(
            f"run {run.id} ended at step {step} because its {metric} had reached train.stop_at, and would end at once again. "
            "Raise it: --set train.stop_at=2.0 never ends early."
        )


def submit_branch(paths: HomePaths, branch: Branch, name: str, options: SubmitOptions) -> Submitted:
    """Copy the checkpoint into the new run's folder, then store the run, queued. Starts nothing.

    Raises:
        ControllerError, StorageError, CheckpointError: nothing is left behind.
    """
    import shutil

    from storage.ids import new_id
    from storage.repository import Repository
    from workers.jobs.provenance import capture
    from workers.jobs.submission import check_compatible, new_run
    from workers.training.branching import branch_checkpoint

    check_compatible(paths, options)
    run_id = new_id()
    run = new_run(branch.spec, name, options, id=run_id, origin=branch.origin)
    try:
        branch_checkpoint(branch.checkpoint, branch.spec, paths.checkpoints(run_id), branch.origin)
        with Repository(paths) as repository:
            return repository.submit(ablation=None, runs=[run], provenance=capture(options.command))
    except BaseException:
        shutil.rmtree(paths.run_dir(run_id), ignore_errors=True)
        raise
