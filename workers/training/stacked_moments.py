"""AdamW's state of several models in one storage, which each model's own optimizer shows as its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.training.stacked import Stack


@dataclass(frozen=True, slots=True)
class Moments:
    """The averages, laid out as the stack's rows, and how many updates each stretch of each row has seen, (members, stretches)."""

    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: Tensor


def gather_moments(stack: Stack, optimizers: Sequence[torch.optim.AdamW]) -> Moments:
    """Return the optimizers' states in one storage, and let them show it: what changes it changes them."""
    exp_avg, exp_avg_sq = torch.zeros_like(stack.rows), torch.zeros_like(stack.rows)
    steps = torch.zeros(len(optimizers), len(stack.stretches), device=stack.rows.device)
    for row, (optimizer, parameters) in enumerate(zip(optimizers, stack.parameters, strict=True)):
        for stretch, step in zip(stack.stretches, steps[row], strict=True):
            for name in stretch.names:
                parameter = parameters[name]
                own = {"exp_avg": stack.view(name, exp_avg)[row], "exp_avg_sq": stack.view(name, exp_avg_sq)[row]}
                state = optimizer.state[parameter]
                if state:
                    step.copy_(state["step"])
                    for slot, values in own.items():
                        values.copy_(state[slot])
                optimizer.state[parameter] = {"step": step, **own}
    return Moments(exp_avg, exp_avg_sq, steps)
