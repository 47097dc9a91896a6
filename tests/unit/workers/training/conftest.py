"""A tiny run, and a way to execute it in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from workers.specs import ModelSpec, RunSpec, SelectiveCopyingSpec, TrainSpec
from workers.training import MemorySink, RunContext, RunResult, run_trial
from workers.training.context import never_stop


class MakeSpec(Protocol):
    """Makes the tiny run's spec with some fields of `train` changed."""

    def __call__(self, *, dropout: float = ..., seed: int = ..., **train: Any) -> RunSpec: ...


class Execute(Protocol):
    """Runs a spec, in a fresh folder unless one is given."""

    def __call__(
        self,
        spec: RunSpec,
        *,
        folder: Path | None = ...,
        should_stop: Callable[[], bool] = ...,
        attempt: int = ...,
        accept_other_spec: bool = ...,
    ) -> Executed: ...


class Executed:
    """A run's result, what its sink received, and its folder."""

    def __init__(self, result: RunResult, sink: MemorySink, folder: Path) -> None:
        self.result, self.sink, self.folder = result, sink, folder

    def curve(self) -> dict[tuple[int, str], float]:
        """Every logged value that must repeat exactly: all but rates and memory."""
        return {
            (step, key): value
            for step, row in self.sink.rows
            for key, value in row.items()
            if not key.endswith("_per_s") and not key.startswith("system/")
        }

    def weights(self) -> bytes:
        """The final parameters and the optimizer's state, as they stand on disk."""
        assert self.result.checkpoint is not None
        folder = self.folder / self.result.checkpoint
        return (folder / "model.safetensors").read_bytes() + (folder / "optimizer.safetensors").read_bytes()


@pytest.fixture(scope="session")
def make_spec() -> MakeSpec:
    def make(*, dropout: float = 0.0, seed: int = 0, **train: Any) -> RunSpec:
        settings: dict[str, Any] = {
            "steps": 20,
            "batch_size": 4,
            "lr": 1e-2,
            "log_every": 4,
            "eval_batches": 2,
            "device": "cpu",
            "threads": 1,
            **train,
        }
        return RunSpec(
            model=ModelSpec(d_model=8, n_layer=1, d_state=4, dropout=dropout),
            task=SelectiveCopyingSpec(context=12, memorize=3, vocab=6),
            train=TrainSpec(**settings),
            seed=seed,
        )

    return make


@pytest.fixture(scope="session")
def execute(tmp_path_factory: pytest.TempPathFactory) -> Execute:
    def run(
        spec: RunSpec,
        *,
        folder: Path | None = None,
        should_stop: Callable[[], bool] = never_stop,
        attempt: int = 1,
        accept_other_spec: bool = False,
    ) -> Executed:
        folder = folder or tmp_path_factory.mktemp("run")
        sink = MemorySink()
        context = RunContext("run", attempt, folder, sink, should_stop, accept_other_spec)
        return Executed(run_trial(spec, context), sink, folder)

    return run
