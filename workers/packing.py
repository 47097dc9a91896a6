"""Which runs can train as one ensemble: those that differ in no tensor's shape and in nothing that a forward pass reads.

Pure, and works on a spec as JSON, as the store keeps it: the controller asks it of every queued run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from workers.parallel import processes

# What each member has for itself: its optimizer, its schedule and its own turns between steps
OWN_TRAIN_FIELDS = frozenset(
    {
        *("steps", "lr", "schedule", "warmup_steps", "min_lr", "beta1", "beta2", "weight_decay", "clip_grad_norm"),
        *("log_every", "eval_every", "eval_batches", "eval_batch_size", "eval_lengths"),
        *("probe_every", "checkpoint_every", "keep_checkpoints", "async_checkpoints", "stop_at", "stop_metric"),
    }
)
AUTO_MOST = 16
"""Runs that "auto" lets together. On an H100 16 seeds of a 74K model made 3.5 times the steps of one run, 32 of them 3.7 times, each
then at an eighth of its own speed (docs/LOG.md, "Ensembles on a GPU")."""

AUTO_WORK = 2**23
"""Positions x channels of all members that "auto" lets together: that of those 32, where an H100 is full."""

# Read where a model is built, or by its optimizer, and never again
OWN_MODEL_FIELDS = frozenset({"dt_min", "dt_max", "constant_init", "hyena_freq", "hyena_positions_lr"})


def refusal(spec: Mapping[str, Any]) -> str:
    """Return why a run can be in no ensemble, or nothing."""
    dropout = spec.get("model", {}).get("dropout", 0.0)
    if dropout:
        return f"model.dropout is {dropout}: dropout draws from one random stream, which members cannot share"
    if (count := processes(spec)) > 1:
        return f"{count} processes train each run: a run is either several processes or one of an ensemble"
    if spec.get("train", {}).get("fused_loss", "auto") == "on":
        return "train.fused_loss is 'on': members hold the logits of all their positions"
    recomputing = spec.get("train", {}).get("activation_checkpointing", "off")
    if recomputing != "off":
        return f"train.activation_checkpointing is {recomputing!r}: members' activations are not computed again"
    return ""


def signature(spec: Mapping[str, Any]) -> str:
    """Return what the members of an ensemble have in common: runs of one signature can train together."""
    model = {name: value for name, value in spec.get("model", {}).items() if name not in OWN_MODEL_FIELDS}
    train = {name: value for name, value in spec.get("train", {}).items() if name not in OWN_TRAIN_FIELDS}
    # Of the initial values of A only these change the shape of what is learnt
    model["a_init"] = "complex" if model.get("a_init") == "complex" else "real"
    model["s4d_init"] = "real" if model.get("s4d_init") == "real" else "pairs"
    return json.dumps({"model": model, "task": spec.get("task", {}), "train": train}, sort_keys=True)


def most_members(spec: Mapping[str, Any], *, given_gpu: bool) -> int:
    """Return how many such runs may be one ensemble, as `resources.pack` says: 1 for none.

    "auto" may pack where a run is given a GPU without having named a share (`resources.gpus` "auto"), and its steps are
    too small to fill it. On a CPU it does not pay (docs/LOG.md, "Ensembles"), and what is named is what a run gets.
    """
    asked = spec.get("resources", {}).get("pack", "auto")
    if refusal(spec) or asked == "off":
        return 1
    if asked != "auto":
        return int(asked)
    return max(1, min(AUTO_MOST, AUTO_WORK // work(spec))) if given_gpu else 1


def plan_packs(specs: Sequence[Mapping[str, Any]], *, gpus: int) -> list[list[int]]:
    """Return how so many runs that are queued together are dealt to workers: each worker's places in `specs`, in order.

    `gpus` are those of the cluster: where the controller chooses, runs take all of them before they share one.
    """
    left = dict(enumerate(specs))
    packs = []
    while left:
        first = min(left)
        spec = left.pop(first)
        named = spec.get("resources", {}).get("gpus", "auto") != "auto"
        most = most_members(spec, given_gpu=gpus > 0 and not named)
        alike = [place for place, other in left.items() if most > 1 and _companions(spec, other)]
        pack = [first, *alike[: members(1 + len(alike), most, spread_over=0 if named else gpus) - 1]]
        left = {place: other for place, other in left.items() if place not in pack}
        packs.append(pack)
    return packs


def members(runs: int, most: int, *, spread_over: int) -> int:
    """Return how many of so many runs that could be one ensemble begin as one, where they spread over some GPUs first."""
    return min(most, -(-runs // max(1, spread_over)))


def _companions(spec: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    asked = [{name: one.get("resources", {}).get(name) for name in ("cpus", "gpus", "pack")} for one in (spec, other)]
    return asked[0] == asked[1] and not refusal(other) and signature(spec) == signature(other)


def work(spec: Mapping[str, Any]) -> int:
    """Return the size of what a layer computes in a step: positions x channels."""
    model, task, train = (spec.get(table, {}) for table in ("model", "task", "train"))
    length = task.get("seqlen") or task.get("context") or 2 * (task.get("pairs") or task.get("operands") or 1)
    rows = train.get("batch_size", 1) // train.get("accumulate", 1)
    return max(1, int(rows * length * model.get("d_model", 1) * model.get("expand", 1)))


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys in which two specs differ and which the members of an ensemble must have in common."""
    mine, theirs = (json.loads(signature(spec)) for spec in (first, other))
    return [
        f"{table}.{name}"
        for table in mine
        for name in sorted(mine[table].keys() | theirs[table].keys())
        if mine[table].get(name) != theirs[table].get(name)
    ]
