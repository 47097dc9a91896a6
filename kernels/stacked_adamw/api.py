"""The public functions, and what they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.common.choice import wants_triton


@dataclass(frozen=True, slots=True)
class Rows:
    """Parameters and AdamW's averages, fp32 contiguous (members, width), a row a member.

    `group` int32 (width,) names the parameter group of each column; `steps` fp32 (members, groups) counts updates.
    """

    parameters: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    group: Tensor
    steps: Tensor


@dataclass(frozen=True, slots=True)
class Hyper:
    """What the members' optimizers do: fp32.

    `betas` fp64 (members, groups, 2); `settings` (members, groups, 2) are epsilon and weight decay; `limits` (members,) is
    the norm that a row of gradients may have, infinity where it is not clipped.
    """

    betas: Tensor
    settings: Tensor
    limits: Tensor


@dataclass(frozen=True, slots=True)
class Taken:
    """What a step takes of the parameters in another form; made anew by each update.

    `half` (members, width) is a copy of the rows in another dtype, None for none. `apart` holds columns of the rows member by
    member without gaps: a column goes to target + member * stride. `kind` int32 (width,) says what of it: 0 nothing, 1 the
    value itself, 2 -exp of it, a rate of decay.
    """

    half: Tensor | None
    apart: Tensor
    kind: Tensor
    target: Tensor
    stride: Tensor


def serves(parameters: Tensor) -> bool:
    """Say whether rows of parameters can be updated so."""
    return parameters.dtype == torch.float32 and wants_triton("stacked_adamw", "auto", parameters.device.type)


def derive(parameters: Tensor, taken: Taken) -> None:
    """Make what a step takes of rows of parameters."""
    _triton().derive(parameters, taken)


def update(rows: Rows, gradients: Tensor, hyper: Hyper, rates: Tensor, taken: Taken) -> Tensor:
    """Clip each member's row of gradients by its 2-norm and move its parameters by AdamW; return the norms before (members,).

    Computes: g' = g min(1, limit / (|g| + 1e-6)), and with it `torch.optim.AdamW` (decoupled decay first), at rates fp32
    (members, groups). Then `derive` of the new parameters, in the same pass. The gradients stay as they are.
    Determinism: bitwise; sums in a fixed order, no atomics.
    """
    norms: Tensor = _triton().update(rows, gradients, hyper, rates, taken)
    return norms


def _triton() -> Any:
    from kernels.stacked_adamw import triton_op

    return triton_op
