"""A checkpoint of one run as the beginning of another: copied into the new run's folder, and said to be of its spec."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.errors import CheckpointError, SpecError
from workers.specs import RunSpec, flatten
from workers.training.checkpoint import STATE_FILE, Checkpoint
from workers.training.identity import identity_hash


def check_branch(checkpoint: Checkpoint, spec: RunSpec) -> None:
    """Refuse a spec that cannot go on from a checkpoint.

    Raises:
        SpecError: the model is another one, or there is no step left to do.
    """
    before: Mapping[str, Any] = checkpoint.state["spec"]
    old, new = flatten({"model": before["model"]}), flatten({"model": spec.model.model_dump(mode="json")})
    changed = [key for key, value in new.items() if key != "model.implementation" and old.get(key, value) != value]
    if changed:
        key = changed[0]
        raise SpecError(
            f"--set {key}={new[key]}: the checkpoint holds a model with {key} {old[key]}, and a resumed run keeps its "
            "model. Changes of train, task and resources are fine."
        )
    if checkpoint.step >= spec.train.steps:
        raise SpecError(
            f"the checkpoint is of step {checkpoint.step:,} and train.steps is {spec.train.steps:,}, so nothing is left "
            f"to do. Resume from an earlier one, or go on for longer: --set train.steps={2 * checkpoint.step}"
        )


def branch_checkpoint(checkpoint: Checkpoint, spec: RunSpec, target: Path, origin: Mapping[str, Any]) -> Path:
    """Copy a checkpoint into the folder of another run's checkpoints and return it there.

    The tensors' files are shared with the original where the file system can do that. `state.json` gets the other
    run's spec and identity, and keeps `origin`, what it was made from.

    Raises:
        SpecError: as `check_branch`.
        CheckpointError: the disk refused; nothing is left behind.
    """
    check_branch(checkpoint, spec)
    folder = target / f"step-{checkpoint.step:06d}"
    aside = target / f".writing-{folder.name}"
    state = {
        **checkpoint.state,
        "identity": identity_hash(spec),
        "spec": spec.model_dump(mode="json"),
        "origin": dict(origin),
    }
    try:
        aside.mkdir(parents=True)
        for file in sorted(checkpoint.folder.iterdir()):
            if file.name != STATE_FILE:
                _share(file, aside / file.name)
        (aside / STATE_FILE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        aside.rename(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(f"{folder}: cannot be written: {error}. Free space or move the home.") from error
    return folder


def _share(file: Path, place: Path) -> None:
    """Link a file, whose content never changes once it is written, or copy it where links cannot be made."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)
