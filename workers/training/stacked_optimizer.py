"""AdamW of a whole stack in two kernels: each member by its own optimizer's settings, clipping and rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.stacked_adamw import Hyper, Rows, update
from workers.specs import TrainSpec
from workers.training.schedule import learning_rate
from workers.training.stacked import Stack
from workers.training.stacked_moments import Moments
from workers.training.stacked_taken import StackedTaken


class StackedAdamW:
    """Moves the rows of a stack by rows of gradients.

    Args:
        settings: what each member's optimizer is given, a parameter group a stretch of the stack.
        trains, steps: the members' training specs, and the steps that each has done.
        taken: made anew by each update.
    """

    def __init__(
        self,
        stack: Stack,
        moments: Moments,
        settings: Sequence[Sequence[dict[str, Any]]],
        *,
        trains: Sequence[TrainSpec],
        steps: Sequence[int],
        taken: StackedTaken,
    ) -> None:
        self._trains, self._steps, self._taken = trains, steps, taken
        self._most = [[group.get("max_lr", math.inf) for group in own] for own in settings]
        rows = stack.rows
        group = torch.zeros(rows.shape[1], dtype=torch.int32)
        for index, stretch in enumerate(stack.stretches):
            group[stretch.columns] = index
        self._rows = Rows(rows, moments.exp_avg, moments.exp_avg_sq, group.to(rows.device), moments.steps)
        betas = [[group["betas"] for group in own] for own in settings]
        others = [[(group["eps"], group["weight_decay"]) for group in own] for own in settings]
        limits = [train.clip_grad_norm or math.inf for train in trains]
        self._hyper = Hyper(
            torch.tensor(betas, dtype=torch.float64, device=rows.device),
            torch.tensor(others, dtype=torch.float32, device=rows.device),
            torch.tensor(limits, dtype=torch.float32, device=rows.device),
        )
        self._rates = rows.new_zeros(0, *moments.steps.shape)
        self._known: list[list[list[float]]] = []

    def reserve(self, slots: int) -> None:
        """Make so many slots."""
        if len(self._rates) < slots:
            self._rates, self._known = self._rates.new_zeros(slots, *self._rates.shape[1:]), []

    def set(self, steps: range) -> None:
        """Set the rates of the first slots to those of steps; a constant schedule costs nothing."""
        wanted = [[self._rates_of(member, step) for member in range(len(self._trains))] for step in steps]
        if self._known[: len(wanted)] == wanted:
            return
        host = torch.tensor(wanted, pin_memory=self._rates.is_cuda)
        self._rates[: len(wanted)].copy_(host, non_blocking=True)
        self._known[: len(wanted)] = wanted

    def step(self, gradients: Tensor, slot: int) -> Tensor:
        """Clip, move the parameters at a slot's rates and make what the next step takes; return the norms before."""
        return update(self._rows, gradients, self._hyper, self._rates[slot], self._taken.tables)

    def _rates_of(self, member: int, step: int) -> list[float]:
        rate = learning_rate(self._trains[member], self._steps[member] + step)
        return [min(rate, most) for most in self._most[member]]
