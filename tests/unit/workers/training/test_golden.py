"""The loss of 100 steps on a CPU, step by step, as it was when the curve was recorded.

Within one process two runs are equal bit for bit (`test_resume.py`). Between CPUs the order of sums in matrix products
differs, so here the tolerance is 1e-4 relative. A deliberate change of the numbers is recorded anew with
`python tests/unit/workers/training/test_golden.py`, and its reason belongs in the commit.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from workers.specs import ModelSpec, RunSpec, SelectiveCopyingSpec, TrainSpec
from workers.training import MemorySink, RunContext, run_trial

GOLDEN = Path(__file__).parent / "golden"
STEPS = 100


def spec_of(inner: str) -> RunSpec:
    model = {"inner": inner, "d_model": 16, "n_layer": 2, "d_state": 8}
    train = {"steps": STEPS, "batch_size": 8, "lr": 3e-3, "warmup_steps": 10, "schedule": "cosine", "weight_decay": 0.1}
    return RunSpec(
        model=ModelSpec.model_validate(model),
        task=SelectiveCopyingSpec(context=24, memorize=4, vocab=8),
        train=TrainSpec.model_validate({**train, "device": "cpu", "threads": 1, "log_every": 1, "eval_batches": 2}),
        seed=7,
    )


def losses(inner: str) -> list[float]:
    sink = MemorySink()
    with tempfile.TemporaryDirectory() as folder:
        run_trial(spec_of(inner), RunContext("golden", 1, Path(folder), sink))
    return list(sink.series("train/loss").values())


@pytest.mark.parametrize("inner", ["s6", "s4d"])
def test_the_curve_is_the_recorded_one(inner: str) -> None:
    recorded = json.loads((GOLDEN / f"{inner}.json").read_text(encoding="utf-8"))
    # A field that the record lacks takes its default, which must not change the curve.
    assert RunSpec.model_validate_json(json.dumps(recorded["spec"])) == spec_of(inner), (
        "record the curve of the new spec"
    )
    assert losses(inner) == pytest.approx(recorded["losses"], rel=1e-4)


if __name__ == "__main__":
    for name in ("s6", "s4d"):
        text = json.dumps({"spec": spec_of(name).model_dump(mode="json"), "losses": losses(name)}, indent=1)
        (GOLDEN / f"{name}.json").write_text(text + "\n", encoding="utf-8")
