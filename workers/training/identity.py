"""Which runs compute the same: what of a spec decides the parameters after a step, and what does not."""

from __future__ import annotations

import hashlib
import json

from workers.specs import RunSpec, flatten

# Fields that change neither the parameters after a given step nor a metric at it: how long to go on, when and how to save, with
# what resources, with captured steps or without, what of memory and waiting is saved, at which other lengths to evaluate in the
# end. A checkpoint may be resumed under other values of these.
# (How many processes share a batch changes the order of sums alone, as another GPU does.
# A cosine's later rates do follow `steps`, and so do the later stages of a curriculum.)
FREE_TRAIN_FIELDS = frozenset(
    {
        "steps",
        "stop_at",
        "stop_metric",
        "checkpoint_every",
        "keep_checkpoints",
        "async_checkpoints",
        "threads",
        "capture",
        "data_parallel",
        "activation_checkpointing",
        "prefetch",
        "probe_every",
        "eval_lengths",
    }
)


def identity_hash(spec: RunSpec) -> str:
    """Return the SHA-256 of what a run computes: its spec without `resources` and `FREE_TRAIN_FIELDS`."""
    tree = spec.model_dump(mode="json", exclude={"resources": True, "train": set(FREE_TRAIN_FIELDS)})
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def identity_today(tree: object) -> str | None:
    """Return the identity of a stored spec with the fields that it lacks; None where it is no spec any more."""
    try:
        return identity_hash(RunSpec.model_validate_json(json.dumps(tree)))
    except ValueError:
        return None


def differences(other: object, spec: RunSpec) -> str:
    """Return in words which fields of a stored spec are not those of another, of those that count."""
    if not isinstance(other, dict):
        return "its spec is not recorded"
    mine = flatten(spec.model_dump(mode="json"))
    theirs = flatten(other)
    free = {f"train.{name}" for name in FREE_TRAIN_FIELDS}
    keys = [k for k in sorted(mine.keys() | theirs.keys()) if k not in free and not k.startswith("resources.")]
    changed = [f"{k}: {theirs.get(k)!r} there, {mine.get(k)!r} here" for k in keys if mine.get(k) != theirs.get(k)]
    return "; ".join(changed) or "its fields are equal, but it was written by another version of the specs"
