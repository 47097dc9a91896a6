"""Which runs can train as one ensemble: those that differ in no tensor's shape and in nothing that a forward pass reads.

Pure, and works on a spec as JSON, as the store keeps it: the controller asks it of every queued run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# What each member has for itself: its optimizer, its schedule and its own turns between steps
OWN_TRAIN_FIELDS = frozenset(
    {
        *("steps", "lr", "schedule", "warmup_steps", "min_lr", "beta1", "beta2", "weight_decay", "clip_grad_norm"),
        *("log_every", "eval_every", "eval_batches", "eval_batch_size", "eval_lengths"),
        *("checkpoint_every", "keep_checkpoints", "stop_at", "stop_metric"),
    }
)
# Read where a model is built, or by its optimizer, and never again
OWN_MODEL_FIELDS = frozenset({"dt_min", "dt_max", "constant_init", "hyena_freq", "hyena_positions_lr"})


def refusal(spec: Mapping[str, Any]) -> str:
    """Return why a run can be in no ensemble, or nothing."""
    dropout = spec.get("model", {}).get("dropout", 0.0)
    if dropout:
        return f"model.dropout is {dropout}: dropout draws from one random stream, which members cannot share"
    return ""


def signature(spec: Mapping[str, Any]) -> str:
    """Return what the members of an ensemble have in common: runs of one signature can train together."""
    model = {name: value for name, value in spec.get("model", {}).items() if name not in OWN_MODEL_FIELDS}
    train = {name: value for name, value in spec.get("train", {}).items() if name not in OWN_TRAIN_FIELDS}
    # Of the initial values of A only these change the shape of what is learnt
    model["a_init"] = "complex" if model.get("a_init") == "complex" else "real"
    model["s4d_init"] = "real" if model.get("s4d_init") == "real" else "pairs"
    return json.dumps({"model": model, "task": spec.get("task", {}), "train": train}, sort_keys=True)


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys in which two specs differ and which the members of an ensemble must have in common."""
    mine, theirs = (json.loads(signature(spec)) for spec in (first, other))
    return [
        f"{table}.{name}"
        for table in mine
        for name in sorted(mine[table].keys() | theirs[table].keys())
        if mine[table].get(name) != theirs[table].get(name)
    ]
