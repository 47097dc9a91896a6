"""What a run is: frozen, validated, and equal to its JSON.

Every field a researcher may vary lives here under the name the field uses (docs/glossary.md). A dotted key such as
`model.d_state` names it everywhere: in TOML files, in `--set`, on an axis, in a filter and in the store. This module
imports neither torch nor Ray, so the command line can validate an ablation at once.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Implementation = Literal["auto", "reference", "chunked", "triton"]
Direction = Literal["max", "min"]


class Spec(BaseModel):
    """Base of all specs: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelSpec(Spec):
    """A language model of pre-norm residual blocks around a registered mixer.

    The defaults are the released Mamba-1 ones (state-spaces/mamba, `mamba_simple.py`), at the size of the paper's
    synthetic tasks.
    """

    mixer: Literal["mamba", "attention"] = "mamba"
    inner: Literal["s6", "s4d"] = "s6"  # the sequence layer inside the Mamba block
    d_model: int = Field(64, ge=1)
    n_layer: int = Field(2, ge=1)
    expand: int = Field(2, ge=1)
    d_state: int = Field(16, ge=1, le=256)
    d_conv: int = Field(4, ge=0, description="width of the causal convolution; 0 leaves it out")
    gate: bool = True  # the block's SiLU(z) branch
    skip: bool = True  # D x
    dt_rank: int | Literal["auto"] = "auto"  # auto: ceil(d_model / 16); 0: a static dt per channel
    dt_min: float = Field(1e-3, gt=0)
    dt_max: float = Field(1e-1, gt=0)
    selective_dt: bool = True
    selective_b: bool = True
    selective_c: bool = True
    a_init: Literal["lin", "half", "random", "complex"] = "lin"  # -(n+1), -1/2, -exp(N(0,1)), -1/2 + ni (Table 8)
    s4d_init: Literal["lin", "inv", "real"] = "lin"
    s4d_mode: Literal["convolution", "recurrence"] = "convolution"
    n_heads: int = Field(8, ge=1)
    positions: Literal["none", "sinusoidal", "rope"] = "rope"  # of the attention mixer
    mlp_ratio: int = Field(0, ge=0, description="width of the MLP after each mixer over d_model; 0 leaves it out")
    dropout: float = Field(0.0, ge=0, lt=1)
    tie_embeddings: bool = True
    norm_eps: float = Field(1e-5, gt=0)
    implementation: Implementation = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if self.dt_min >= self.dt_max:
            raise ValueError(f"dt_min must be below dt_max, got {self.dt_min} and {self.dt_max}")
        if isinstance(self.dt_rank, int) and self.dt_rank < 0:
            raise ValueError(f"dt_rank must be 'auto' or at least 0, got {self.dt_rank}")
        if self.mixer == "attention" and self.d_model % self.n_heads:
            raise ValueError(f"n_heads must divide d_model, got {self.n_heads} and {self.d_model}")
        if self.inner == "s4d" and self.s4d_init != "real" and self.d_state % 2:
            raise ValueError(
                f"s4d_init={self.s4d_init!r} stores conjugate pairs: d_state must be even, got {self.d_state}"
            )
        if self.d_conv == 1:
            raise ValueError("d_conv must be 0 (no convolution) or at least 2, got 1")
        return self


class CopyingSpec(Spec):
    """Copying with fixed spacing: the control that a time-invariant model solves (S4's `variable=False`)."""

    name: Literal["copying"] = "copying"
    context: int = Field(112, ge=2, description="positions before the markers: data tokens and noise")
    memorize: int = Field(16, ge=1, description="data tokens to reproduce, one marker each")
    vocab: int = Field(16, ge=3, description="all tokens: noise 0, marker vocab-1, data in between")

    @model_validator(mode="after")
    def _fits(self) -> CopyingSpec:
        if self.memorize > self.context:
            raise ValueError(f"memorize must be at most context, got {self.memorize} > {self.context}")
        return self


class SelectiveCopyingSpec(Spec):
    """Copying with random spacing (Gu & Dao 2023, 4.1.1); S4's `variable=True`."""

    name: Literal["selective-copying"] = "selective-copying"
    context: int = Field(4096, ge=2, description="positions before the markers: data tokens scattered in noise")
    memorize: int = Field(16, ge=1)
    vocab: int = Field(16, ge=3)

    @model_validator(mode="after")
    def _fits(self) -> SelectiveCopyingSpec:
        if self.memorize > self.context:
            raise ValueError(f"memorize must be at most context, got {self.memorize} > {self.context}")
        return self


class InductionHeadsSpec(Spec):
    """Recall the token that followed the special token (Gu & Dao 2023, 4.1.2)."""

    name: Literal["induction-heads"] = "induction-heads"
    seqlen: int = Field(256, ge=4)
    vocab: int = Field(16, ge=3, description="all tokens; the special one is vocab-1")
    trigger_prefix: int | None = Field(
        None, ge=1, description="the first special token lies within so many positions; none: anywhere"
    )
    loss_on: Literal["last", "all"] = "last"


class TextSpec(Spec):
    """Byte-level language modelling on a file or folder; without a path, the bundled Shakespeare."""

    name: Literal["text"] = "text"
    path: str | None = None
    seqlen: int = Field(256, ge=2)
    valid_fraction: float = Field(0.05, gt=0, lt=1)


TaskSpec = Annotated[CopyingSpec | SelectiveCopyingSpec | InductionHeadsSpec | TextSpec, Field(discriminator="name")]


class TrainSpec(Spec):
    """How a run is trained, evaluated and saved. A step is one optimizer update; the first is 1."""

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(32, ge=1)
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
    log_every: int = Field(10, ge=1)
    eval_every: int = Field(0, ge=0, description="0: only at the end")
    eval_batches: int = Field(16, ge=1)
    eval_batch_size: int = Field(0, ge=0, description="0: as batch_size")
    checkpoint_every: int = Field(0, ge=0, description="0: only at the end")
    keep_checkpoints: int = Field(2, ge=1)
    stop_at: float | None = Field(None, description="end early once the evaluated stop_metric reaches this value")
    stop_metric: str = "valid/accuracy"


class ResourceSpec(Spec):
    """What one run asks of the cluster."""

    cpus: float = Field(1.0, ge=0)
    gpus: float | Literal["auto"] = "auto"  # auto: one GPU where there is any, else none; a fraction shares one
    timeout_s: float | None = Field(None, gt=0)
    max_attempts: int = Field(3, ge=1)

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
    seed: int = Field(0, ge=0, lt=2**31)


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
