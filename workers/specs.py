"""What a run is: frozen, validated, and equal to its JSON.

Every field a researcher may vary lives here, in `spec_model` or in `spec_tasks`, under the name the field uses
(docs/glossary.md). A dotted key such as `model.d_state` names it everywhere: in TOML files, in `--set`, on an axis, in a
filter and in the store. These modules import neither torch nor Ray, so the command line can validate an ablation at once.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from workers import parallel
from workers.spec_base import Spec
from workers.spec_model import Implementation, ModelSpec
from workers.spec_tasks import (
    AssociativeRecallSpec,
    CopyingSpec,
    DnaSpec,
    InductionHeadsSpec,
    ModularArithmeticSpec,
    MqarSpec,
    ParitySpec,
    SelectiveCopyingSpec,
    TaskSpec,
    TextSpec,
)

__all__ = [
    "SEEDS_END",
    "AssociativeRecallSpec",
    "CopyingSpec",
    "Direction",
    "DnaSpec",
    "Implementation",
    "InductionHeadsSpec",
    "MetricSpec",
    "ModelSpec",
    "ModularArithmeticSpec",
    "MqarSpec",
    "ParitySpec",
    "ResourceSpec",
    "RunSpec",
    "SelectiveCopyingSpec",
    "Spec",
    "TaskSpec",
    "TextSpec",
    "TrainSpec",
    "flatten",
    "spec_hash",
]

Direction = Literal["max", "min"]
SEEDS_END = 2**31  # what every generator of random numbers takes lies below


class TrainSpec(Spec):
    """How a run is trained, evaluated and saved. A step is one optimizer update; the first is 1."""

    steps: int = Field(1000, ge=1, le=10**12)
    batch_size: int = Field(32, ge=1)
    accumulate: int = Field(
        1, ge=1, description="micro-batches that a step's batch is computed in, which saves memory; divides batch_size"
    )
    data_parallel: int = Field(
        0, ge=0, description="processes that share each batch, one a GPU; 0: as many as resources.gpus, else one"
    )
    lr: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    min_lr: float = Field(0.0, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    clip_grad_norm: float = Field(1.0, ge=0, description="0 turns clipping off")
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast on a GPU that has it, else fp32
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0, description="CPU threads of the run; 0: its share of CPUs")
    capture: Literal["auto", "on", "off"] = Field(
        "auto", description="record steps into CUDA graphs; auto: on a GPU, where the task and the model allow it"
    )
    activation_checkpointing: Literal["off", "block", "selective"] = Field(
        "off",
        description="compute activations again in the backward pass, to save memory; selective keeps matrix products' results",
    )
    prefetch: Literal["auto", "on", "off"] = Field(
        "auto", description="draw batches ahead in a thread; auto: on a GPU, where they come out of host memory"
    )
    fused_loss: Literal["auto", "on", "off"] = Field(
        "auto", description="the loss without the logits of all positions at once; auto: for large vocabularies"
    )
    log_every: int = Field(10, ge=1)
    eval_every: int = Field(0, ge=0, description="0: only at the end")
    eval_batches: int = Field(16, ge=1)
    eval_batch_size: int = Field(0, ge=0, description="0: as batch_size, in micro-batches too")
    eval_lengths: tuple[int, ...] = Field(
        (), description="other lengths to evaluate at once training has ended, as valid/accuracy@L and valid/loss@L"
    )
    probe_every: int = Field(
        0, ge=0, description="steps between looks inside the S6 layers (dt, memory, state, gate), as probe/...; 0: none"
    )
    checkpoint_every: int = Field(0, ge=0, description="0: only at the end")
    keep_checkpoints: int = Field(2, ge=1)
    async_checkpoints: Literal["auto", "on", "off"] = Field(
        "auto", description="write checkpoints while training goes on; auto: on a GPU"
    )
    stop_at: float | None = Field(None, description="end early once the evaluated stop_metric reaches this value")
    stop_metric: str = "valid/accuracy"

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> TrainSpec:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate (batch_size is the batch of one update, accumulate the "
                f"micro-batches that it is computed in), got {self.batch_size} and {self.accumulate}"
            )
        return self

    @model_validator(mode="after")
    def _lengths_differ(self) -> TrainSpec:
        if min(self.eval_lengths, default=1) < 1 or len(set(self.eval_lengths)) < len(self.eval_lengths):
            raise ValueError(f"eval_lengths must be different lengths of at least 1, got {list(self.eval_lengths)}")
        return self


class ResourceSpec(Spec):
    """What one run asks of the cluster."""

    cpus: float = Field(1.0, ge=0)
    gpus: float | Literal["auto"] = "auto"  # auto: one GPU where there is any, else none; a fraction shares one
    timeout_s: float | None = Field(None, gt=0)
    max_attempts: int = Field(3, ge=1, le=1_000_000)
    pack: Annotated[int, Field(ge=1)] | Literal["auto", "off"] = Field(
        "auto",
        description="how many runs that differ in no shape may train at once as one model; auto: where it is known to pay",
    )
    sample_every_s: float = Field(
        5.0, ge=0, description="seconds between looks at CPU, memory and GPU, logged as system/...; 0: none"
    )

    @model_validator(mode="after")
    def _positive(self) -> ResourceSpec:
        if isinstance(self.gpus, float) and self.gpus < 0:
            raise ValueError(f"gpus must be 'auto' or at least 0, got {self.gpus}")
        return self


class RunSpec(Spec):
    """Everything that decides what one run computes, its seed included."""

    model: ModelSpec = ModelSpec()
    task: TaskSpec = SelectiveCopyingSpec()
    train: TrainSpec = TrainSpec()
    resources: ResourceSpec = ResourceSpec()
    seed: int = Field(0, ge=0, lt=SEEDS_END)

    @model_validator(mode="after")
    def _can_be_shared(self) -> RunSpec:
        if why := parallel.refusal(self.model_dump(mode="json", include={"model", "train", "resources"})):
            raise ValueError(why)
        return self


class MetricSpec(Spec):
    """The metric that decides, and those printed beside it."""

    key: str = "valid/loss"
    direction: Direction = "min"
    also: tuple[str, ...] = ()


def spec_hash(spec: Spec) -> str:
    """Return the SHA-256 of the spec's canonical JSON, in hexadecimal: equal specs have equal hashes."""
    canonical = json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{dotted}."))
        else:
            flat[dotted] = value
    return flat
