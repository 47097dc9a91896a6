"""Further seeds for an ablation that is in the store. Imports neither Ray nor torch, and starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from storage.home import HomePaths
from storage.queries import Reader, RunRow
from storage.records import NewRun, Submitted
from storage.repository import Repository
from workers.ablation import AblationSpec, PlannedRun, plan_runs, validate
from workers.errors import SpecError
from workers.jobs.detach import SubmitOptions
from workers.jobs.provenance import capture
from workers.jobs.submission import check_compatible, planned_run
from workers.specs import RunSpec


@dataclass(frozen=True, slots=True)
class Extension:
    """An ablation with the seeds that it should have as well, and the runs that these ask for."""

    ablation_id: str
    spec: AblationSpec
    plan: tuple[PlannedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The further seeds alone."""
        return tuple(dict.fromkeys(planned.spec.seed for planned in self.plan))


def further_seeds(known: Sequence[int], count: int) -> list[int]:
    """Return so many seeds that an ablation does not have: those that follow its largest."""
    first = max(known, default=-1) + 1
    return list(range(first, first + count))


def plan_extension(reader: Reader, ablation_id: str, seeds: Sequence[int]) -> Extension:
    """Expand a stored ablation with further seeds and return the runs that it lacks.

    Each run is that of the trial's first stored one but for its seed, so that a trial stays what it was when it was
    submitted: its files are found where they were, and a default that has changed since changes nothing.

    Raises:
        NotFound: no such ablation.
        SpecError: a seed that it has, or trials that do not expand as they did when it was submitted.
    """
    row = reader.ablation(ablation_id)
    source = f"ablation {row.name} ({row.id})"
    doubled = sorted(set(seeds) & set(row.seeds))
    if doubled:
        raise SpecError(f"{source}: it has seed {doubled[0]} already; its seeds are {_listed(row.seeds)}")
    spec = validate(AblationSpec, {**row.spec, "seeds": list(seeds)}, source)
    first: dict[int, RunRow] = {}
    for run in reader.runs(ablation_id=ablation_id, include_archived=True):
        first.setdefault(run.trial_index, run)
    plan = []
    for planned in plan_runs(spec, source):
        stored = first.get(planned.trial.index)
        if stored is None or stored.trial_label != planned.trial.label:
            was = "is not in the store" if stored is None else f"was {stored.trial_label!r}"
            raise SpecError(
                f"{source}: trial {planned.trial.index} {was}, and expands to {planned.trial.label!r} now. "
                "Submit the ablation anew."
            )
        tree: dict[str, Any] = {**reader.run_spec(stored.id), "seed": planned.spec.seed}
        plan.append(replace(planned, spec=validate(RunSpec, tree, f"{source}: trial ({stored.trial_label})")))
    return Extension(row.id, spec, tuple(plan))


def submit_seeds(paths: HomePaths, extension: Extension, options: SubmitOptions) -> Submitted:
    """Store the runs, queued, in one transaction. Starts nothing (`ensure_controller` does).

    Raises:
        ControllerError: a living controller runs attempts in another way than the options ask; nothing is written.
        Conflict: somebody has added such a seed meanwhile.
    """
    check_compatible(paths, options)
    runs: list[NewRun] = [planned_run(extension.spec, planned, options) for planned in extension.plan]
    with Repository(paths) as repository:
        return repository.extend(extension.ablation_id, runs, capture(options.command))


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
