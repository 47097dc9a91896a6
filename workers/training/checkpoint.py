"""Checkpoints: resumable states in folders that are either whole or ignored.

A checkpoint after step 500 is `step-000500/` with `model.safetensors`, `optimizer.safetensors` and `state.json`.
The folder is filled under a temporary name beside its place, every file and the folder are synced, and then it is
renamed; `state.json` holds the size and SHA-256 of both tensor files. A crash at any moment therefore leaves either
no folder of that name or a whole one, and damage done later (a full disk, a copy cut short) is noticed on reading.

Format version 1 of `state.json`:
    format: 1;  step: int;  identity: the spec's `identity_hash`;  spec: the whole spec;  torch: version that wrote it
    random: `RandomState`;  progress: what the training loop needs (workers.training.progress)
    files: {name: {bytes: int, sha256: str}}
Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from workers.errors import CheckpointError
from workers.specs import RunSpec
from workers.training.identity import differences, identity_hash, identity_today
from workers.training.snapshot import Snapshot, take_snapshot

FORMAT = 1
MODEL_FILE, OPTIMIZER_FILE, STATE_FILE = "model.safetensors", "optimizer.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{6,})")
_TEMPORARY = ".writing-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk: its folder, step, and parsed `state.json`."""

    folder: Path
    step: int
    state: Mapping[str, Any]

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Copy the checkpoint's tensors into a model and its optimizer, on whatever devices these are.

        Raises:
            CheckpointError: the tensors do not fit the model or the optimizer.
        """
        load_weights(model, self.folder)
        try:
            _load_optimizer(model, optimizer, load_file(self.folder / OPTIMIZER_FILE))
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.folder / OPTIMIZER_FILE}: does not fit the optimizer: {error}") from error


class CheckpointStore:
    """The checkpoints of one run, in one folder.

    Args:
        directory: the folder; it is made when the first checkpoint is written.
        keep: how many whole checkpoints stay; older ones are removed once a newer one is whole.
        report: takes one sentence for each checkpoint that is ignored because it is not whole.
    """

    def __init__(self, directory: Path, *, keep: int, report: Callable[[str], None]) -> None:
        self.directory = directory
        self.keep = keep
        self.report = report

    def newest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint, or None. Torn ones are reported and passed over."""
        for step, folder in reversed(self._folders()):
            problem, state = _read_state(folder, step)
            if problem is None:
                return Checkpoint(folder, step, state)
            self.report(f"ignored checkpoint {folder.name}: {problem}")
        return None

    def save(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, spec: RunSpec, state: Mapping[str, Any]
    ) -> Checkpoint:
        """Write a checkpoint, then prune. A whole one of the same step is replaced. Raises as `write`."""
        return self.write(step, take_snapshot(model, optimizer, apart=False), spec, state)

    def write(self, step: int, snapshot: Snapshot, spec: RunSpec, state: Mapping[str, Any]) -> Checkpoint:
        """As `save`, of a state that was taken before. May be called from another thread, one at a time.

        Raises:
            CheckpointError: the disk refused (the older checkpoints are then all still there).
        """
        temporary = self.directory / f"{_TEMPORARY}{step:06d}-{os.getpid()}"
        target = self.directory / f"step-{step:06d}"
        try:
            temporary.mkdir(parents=True)
            snapshot.wait()
            save_model(snapshot.as_module(), str(temporary / MODEL_FILE))
            save_file(dict(snapshot.optimizer), temporary / OPTIMIZER_FILE)
            files = {name: _fingerprint(temporary / name) for name in (MODEL_FILE, OPTIMIZER_FILE)}
            whole: dict[str, Any] = {
                "format": FORMAT,
                "step": step,
                "identity": identity_hash(spec),
                "spec": spec.model_dump(mode="json"),
                "torch": str(torch.__version__),
                **state,
                "files": files,
            }
            (temporary / STATE_FILE).write_text(json.dumps(whole, indent=1), encoding="utf-8")
            for name in (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE):
                _sync(temporary / name)
            _sync(temporary)
            _publish(temporary, target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(f"{target}: cannot be written: {error}. Free space or move the home.") from error
        self._prune()
        return Checkpoint(target, step, whole)

    def remove_leftovers(self) -> None:
        """Remove folders that a crashed attempt was still writing. Call it before an attempt writes, not during one."""
        for leftover in self.directory.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _folders(self) -> list[tuple[int, Path]]:
        if not self.directory.is_dir():
            return []
        named = ((_NAME.fullmatch(path.name), path) for path in self.directory.iterdir())
        return sorted((int(match[1]), path) for match, path in named if match)

    def _prune(self) -> None:
        whole = [folder for step, folder in self._folders() if _is_complete(folder)]
        for folder in whole[: -self.keep]:
            doomed = self.directory / f"{_TEMPORARY}pruned-{folder.name}-{os.getpid()}"
            folder.rename(doomed)  # at once out of sight, so that no reader meets a half-removed checkpoint
            shutil.rmtree(doomed, ignore_errors=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint that a folder is, whatever its name.

    Raises:
        CheckpointError: the folder is no whole checkpoint; says what is wrong.
    """
    problem, state = _read_state(folder)
    if problem is not None:
        raise CheckpointError(f"{folder}: is no whole checkpoint: {problem}")
    return Checkpoint(folder, state["step"], state)


def check_identity(checkpoint: Checkpoint, spec: RunSpec) -> None:
    """Refuse a checkpoint that another run wrote, or that is past this run's last step.

    A field that specs did not have when it was written counts as its default, which means what was done before.

    Raises:
        CheckpointError: names the fields that differ, or the steps.
    """
    if checkpoint.step > spec.train.steps:
        raise CheckpointError(
            f"{checkpoint.folder}: is past this run's end: step {checkpoint.step}, train.steps {spec.train.steps}. "
            "Raise train.steps or start a new run."
        )
    stored = checkpoint.state.get("spec")
    if identity_hash(spec) not in (checkpoint.state["identity"], identity_today(stored)):
        raise CheckpointError(
            f"{checkpoint.folder}: belongs to another spec ({differences(stored, spec)}). "
            "Start a new run, or accept the checkpoint explicitly."
        )


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy a checkpoint's parameters into a model.

    Raises:
        CheckpointError: the file is unreadable, or its names or shapes are not the model's.
    """
    try:
        load_model(model, folder / MODEL_FILE, strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{folder / MODEL_FILE}: does not fit the model: {error}") from error


def _read_state(folder: Path, step: int | None = None) -> tuple[str | None, dict[str, Any]]:
    """Return (what is wrong, {}) or (None, state). A step that is given must be the checkpoint's."""
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            return f"format {state['format']}, this version reads {FORMAT}", {}
        if state["step"] != (state["step"] if step is None else step):
            return f"{STATE_FILE} is of step {state['step']}", {}
        missing = {"identity", "random", "progress"} - state.keys()
        if missing:
            return f"{STATE_FILE} lacks {', '.join(sorted(missing))}", {}
        for name in (MODEL_FILE, OPTIMIZER_FILE):
            expected = state["files"][name]
            if _fingerprint(folder / name) != expected:
                return f"{name} is not the file that was written", {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}", {}
    return None, state


def _is_complete(folder: Path) -> bool:
    """Say whether all files are there; unlike `_read_state` this reads no tensors, so pruning stays cheap."""
    return all((folder / name).is_file() for name in (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE))


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(temporary: Path, target: Path) -> None:
    """Rename a full folder into place; one already there (torn, or of the same step) is moved out of sight first."""
    if target.exists():
        aside = temporary.with_name(f"{temporary.name}-replaced")
        target.rename(aside)
        temporary.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        temporary.rename(target)
    _sync(target.parent)


def _load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        slot, _, name = key.partition("/")
        state.setdefault(ordered.index(name), {})[slot] = value
    if len(state) not in {0, len(ordered)}:
        raise ValueError(f"it holds {len(state)} of {len(ordered)} parameters")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
