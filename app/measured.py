"""Names of metrics that a run will have: one that none will is found before the first step, not in an empty table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.ablation import AblationSpec, PlannedRun
    from workers.specs import RunSpec

EVALUATED = ("valid/loss", "valid/accuracy", "valid/sequence_accuracy")
TEXTS = ("valid/bpb", "valid/perplexity")
TRAINED = ("loss", "accuracy", "grad_norm", "lr", "steps_per_s", "tokens_per_s", "tokens_seen")
OPEN = ("system/", "probe/")  # what is measured of a machine or inside a layer depends on both


def metrics_of(spec: RunSpec) -> set[str]:
    """Return the metrics that a run logs, those of its machine and its layers left out."""
    from workers.specs import DnaSpec, TextSpec

    texts = isinstance(spec.task, TextSpec | DnaSpec)
    at_lengths = {f"valid/{name}@{length}" for length in spec.train.eval_lengths for name in ("accuracy", "loss")}
    evaluated = {*EVALUATED[:2], *TEXTS} if texts else set(EVALUATED)
    return evaluated | at_lengths | {f"train/{name}" for name in TRAINED}


def unknown_metrics(spec: AblationSpec, plan: Sequence[PlannedRun]) -> list[str]:
    """Return a sentence for each metric of the ablation that none of its runs will have."""
    from storage.lookup import nearest

    known = set().union(*(metrics_of(planned.spec) for planned in plan))
    said = []
    for key in (spec.metric.key, *spec.metric.also):
        if key not in known and not key.startswith(OPEN):
            near = nearest(key, sorted(known))
            meant = f" Did you mean {near!r}?" if near else ""
            said.append(f"no run of this ablation will have the metric {key!r}.{meant}")
    return said
