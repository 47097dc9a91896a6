"""AdamW over parameter groups, and clipping by the global norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workers.models import parameter_groups
from workers.specs import TrainSpec
from workers.training.schedule import learning_rate

_CLIP_FLOOR = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def build_optimizer(model: nn.Module, train: TrainSpec) -> torch.optim.AdamW:
    """Return AdamW at the rate of step 1, in its fused form on CPU and CUDA alike.

    `A_log`, `D`, `dt_bias`, norms and biases are not decayed (`workers.models.parameter_groups` says which). A group
    may carry `max_lr`: `StepRates`, which sets the rates, never exceeds that. The fused form updates all tensors of a
    group in one call (on CPUs five times faster than the foreach form at the size of the synthetic tasks).
    """
    groups = _merged(parameter_groups(model, train.weight_decay))
    lr = learning_rate(train, 1)
    on_gpu = any(parameter.is_cuda for group in groups for parameter in group["params"])
    return torch.optim.AdamW(
        groups, lr=lr, betas=(train.beta1, train.beta2), weight_decay=0.0, fused=True, capturable=on_gpu
    )


def _merged(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return groups that differ in nothing as one, so that one call updates them: without decay, those with and without."""
    merged: dict[tuple[float, float | None], dict[str, Any]] = {}
    for group in groups:
        alike = merged.setdefault((group["weight_decay"], group.get("max_lr")), {**group, "params": []})
        alike["params"].extend(group["params"])
    return list(merged.values())


def clip_gradients(parameters: Sequence[Tensor], limit: float, optimizer: torch.optim.AdamW) -> Tensor:
    """Let the next update see gradients of a global 2-norm of at most `limit` (0: as they are); return the norm before.

    The fused optimizer divides gradients by the excess as it reads them, which saves a pass over them; it takes an excess in
    fp32 only. The norm is a scalar on the parameters' device: nothing here waits for the device.
    """
    norm = nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None], foreach=True)
    if limit > 0 and norm.dtype == torch.float32:
        optimizer.grad_scale = ((norm + _CLIP_FLOOR) / limit).clamp(min=1.0)  # type: ignore[attr-defined]
    elif limit > 0:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm, foreach=True)
    return norm


class StepRates:
    """The learning rates of the steps in flight: one a slot and a parameter group.

    On CUDA they are fp32 scalars on the device, which a captured step reads at each replay and an eager one reads alike,
    so that both compute the same bits; setting one never waits for the device. On a CPU they are numbers.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._groups = optimizer.param_groups
        self._limits: list[float] = [group.get("max_lr", math.inf) for group in self._groups]
        self._device = device
        self._values: list[list[float]] = []
        self._tensors: list[list[Tensor]] = []

    def reserve(self, slots: int) -> None:
        """Make so many slots; those that exist stay as they are."""
        for _ in range(len(self._values), slots):
            self._values.append([math.nan] * len(self._groups))
            if self._device.type == "cuda":
                self._tensors.append([torch.zeros((), device=self._device) for _ in self._groups])

    def set(self, slot: int, lr: float) -> None:
        """Set a slot's rate, of each group within the group's `max_lr` where it has one."""
        for index, limit in enumerate(self._limits):
            value = min(lr, limit)
            if self._values[slot][index] == value:
                continue  # a constant schedule costs nothing
            self._values[slot][index] = value
            if self._tensors:
                self._tensors[slot][index].fill_(value)

    def bind(self, slot: int) -> None:
        """Let the optimizer's next update use a slot's rates."""
        for group, rate in zip(self._groups, (self._tensors or self._values)[slot], strict=True):
            group["lr"] = rate
