"""What a submission will run: its paths made absolute, and a table of it for `--dry-run`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import bad_input

if TYPE_CHECKING:
    from workers.ablation import AblationSpec, PlannedRun
    from workers.specs import RunSpec


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """One trial as `--dry-run` prints it. `tokens` are those of one seed's training."""

    index: int
    labels: dict[str, str]
    parameters: int
    steps: int
    tokens: int


def with_absolute_paths(spec: RunSpec, folder: Path) -> RunSpec:
    """Return the run with its `task.path` and `task.tokenizer` absolute, looked for below the current folder, then `folder`.

    A worker runs in a folder of its own, so a relative path would mean something else there.
    """
    from workers.specs import DnaSpec, TextSpec

    if not isinstance(spec.task, TextSpec | DnaSpec):
        return spec
    found = {}
    for key in ("path", "tokenizer"):
        given = getattr(spec.task, key, None)
        if given is not None:
            found[key] = str(_find(key, given, folder))
    return spec.model_copy(update={"task": spec.task.model_copy(update=found)}) if found else spec


def _find(key: str, given: str, folder: Path) -> Path:
    path = Path(given).expanduser()
    places = list(dict.fromkeys([Path.cwd() / path, folder.absolute() / path]))  # an absolute path stays itself
    for place in places:
        if place.exists():
            return place.resolve()
    tried = " and ".join(str(place) for place in places)
    bad_input(f"key `task.{key}`: {given!r} is neither a file nor a folder; looked for {tried}")


def plan_trials(plan: Sequence[PlannedRun]) -> list[TrialPlan]:
    """Return each trial once, with its size. Imports torch: only who asks for the size pays for it.

    Raises:
        TaskError: a task cannot be built, such as a text that is too small.
    """
    from workers.models import expected_parameters
    from workers.tasks import build_task

    trials: dict[int, TrialPlan] = {}
    for planned in plan:
        if planned.trial.index in trials:
            continue
        spec = planned.spec
        task = build_task(spec.task)
        trials[planned.trial.index] = TrialPlan(
            index=planned.trial.index,
            labels=planned.trial.labels,
            parameters=expected_parameters(spec.model, task.vocab_size),
            steps=spec.train.steps,
            tokens=spec.train.steps * spec.train.batch_size * task.seqlen,
        )
    return list(trials.values())


def print_plan(spec: AblationSpec, plan: Sequence[PlannedRun], *, as_json: bool) -> None:
    """Print what would run: a line a trial on stdout, the sum on stderr."""
    from app.console import data_json, say, table
    from app.formats import counted, large
    from app.grid import Grid, Layout

    trials = plan_trials(plan)
    tokens = sum(trial.tokens for trial in trials) * len(spec.seeds)
    operations = 6 * sum(trial.parameters * trial.tokens for trial in trials) * len(spec.seeds)
    gpus, packs = _packs(plan)
    if as_json:
        packing = {
            "gpus": gpus,
            "workers": [[[plan[at].trial.index, plan[at].spec.seed] for at in one] for one in packs],
        }
        data_json(_as_json(spec, trials, len(plan), tokens) | {"flops": operations, "packing": packing})
        return
    titles = [axis.title for axis in spec.axes]
    rows = [
        [
            str(trial.index),
            *(trial.labels[title] for title in titles),
            ",".join(str(seed) for seed in spec.seeds),
            f"{trial.parameters:,}",
            f"{trial.steps:,}",
            large(trial.tokens),
        ]
        for trial in trials
    ]
    layout = Layout(right=("trial", "parameters", "steps", "tokens"), shrink=(*titles, "seeds"))
    table(Grid(["trial", *titles, "seeds", "parameters", "steps", "tokens"], rows, layout))
    say(
        f"{spec.name}: {counted(len(trials), 'trial')} x {counted(len(spec.seeds), 'seed')} = {counted(len(plan), 'run')}, "
        f"{large(tokens)} tokens in all, "
        f"about {operations:.1e} floating-point operations (6 x parameters x tokens); "
        f"decided by {spec.metric.key} ({spec.metric.direction}). Nothing was written."
    )
    if len(packs) < len(plan):
        say(f"Packing: {_packing(packs)}, with {gpus} GPUs as on this machine.")
    if spec.paper is not None:
        say(f"Paper: {spec.paper.source}")
    for difference in spec.differences:
        say(f"Differs: {difference}")


def _packs(plan: Sequence[PlannedRun]) -> tuple[int, list[list[int]]]:
    """Return this machine's GPUs, and which of the runs would share a worker if they were all that is there."""
    from workers.jobs.process import count_gpus
    from workers.packing import plan_packs

    gpus = count_gpus(os.environ)
    return gpus, plan_packs([planned.spec.model_dump(mode="json") for planned in plan], gpus=gpus)


def _packing(packs: Sequence[Sequence[int]]) -> str:
    sizes = Counter(len(pack) for pack in packs)
    told = [
        f"{count} {'ensemble' if count == 1 else 'ensembles'} of {size} runs" if size > 1 else f"{count} alone"
        for size, count in sorted(sizes.items(), reverse=True)
    ]
    return ", ".join(told)


def _as_json(spec: AblationSpec, trials: Sequence[TrialPlan], runs: int, tokens: int) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": spec.name,
        "question": spec.question,
        "metric": spec.metric.model_dump(mode="json"),
        "axes": [axis.title for axis in spec.axes],
        "seeds": list(spec.seeds),
        "differences": list(spec.differences),
        "runs": runs,
        "tokens": tokens,
        "trials": [asdict(trial) for trial in trials],
    }
