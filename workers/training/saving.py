"""Checkpoints beside training: the state is copied at once, and written by a thread while the next steps run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from workers.errors import CheckpointError
from workers.specs import RunSpec, TrainSpec
from workers.training.checkpoint import Checkpoint, CheckpointStore
from workers.training.precision import Placement
from workers.training.snapshot import Snapshot, take_snapshot


def saves_beside(train: TrainSpec, placement: Placement) -> bool:
    """Say whether checkpoints are written while training goes on. On a CPU they would share its cores."""
    return train.async_checkpoints == "on" or (train.async_checkpoints == "auto" and placement.device.type == "cuda")


class Saver:
    """Writes a run's checkpoints, one at a time: a second one waits for the first.

    All methods are called from the training thread, and so is `whole`, by whichever of them is called once a checkpoint is. What
    goes wrong in the writing thread is raised there too.

    Args:
        store: where checkpoints go, atomic on disk.
        spec: the run's.
        beside: write in a thread; else `save` returns once the checkpoint is whole.
        whole: told of each checkpoint that has become whole.
        leads: False where another process saves for this one.
    """

    def __init__(
        self,
        store: CheckpointStore,
        spec: RunSpec,
        *,
        beside: bool,
        whole: Callable[[Checkpoint], None],
        leads: bool = True,
    ) -> None:
        self._store, self._spec, self._beside, self._whole, self._leads = store, spec, beside, whole, leads
        self._thread: threading.Thread | None = None
        self._written: Checkpoint | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Save a state, which may change as soon as this returns.

        Raises:
            CheckpointError: this one or the one before cannot be written.
        """
        self.wait()
        if not self._leads:
            return
        snapshot = take_snapshot(model, optimizer, apart=self._beside)
        if not self._beside:
            self._whole(self._store.write(step, snapshot, self._spec, state))
            return
        self._thread = threading.Thread(target=self._write, args=(step, snapshot, state), name="checkpoint")
        self._thread.start()

    def look(self) -> None:
        """Tell of a checkpoint that has become whole, without waiting for one. Raises as `save`."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Return once nothing is being written. Raises as `save`."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        failure, written = self._failure, self._written
        self._failure = self._written = None
        if failure is not None:
            raise failure
        if written is not None:
            self._whole(written)

    def close(self) -> None:
        """As `wait`, where a run has failed already: another failure is reported as a sentence."""
        try:
            self.wait()
        except CheckpointError as error:
            self._store.report(str(error))

    def _write(self, step: int, snapshot: Snapshot, state: Mapping[str, Any]) -> None:
        try:
            self._written = self._store.write(step, snapshot, self._spec, state)
        except BaseException as error:  # noqa: BLE001 - it is raised in the training thread
            self._failure = error
