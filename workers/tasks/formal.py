"""Formal languages that ask for state tracking: parity and modular arithmetic.

Parity:

    inputs   1 0 1 1          targets  1 1 0 1     loss_on = "all": ones so far, modulo 2

Modular arithmetic, here modulo 5; products bind before sums:

    inputs   3 + 4 * 2 =      targets  - - - - - 1     loss_on = "last"
                              targets  3 - 2 - 1 1     loss_on = "all": the value of the expression so far

Source: Deletang et al. 2022 (arXiv 2207.02098), without brackets. A recurrence with real, positive transitions, such as
Mamba's, cannot track parity at every length (Sarrof et al. 2024, arXiv 2405.17394; Grazzi et al. 2024, arXiv 2411.12537).
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.specs import ModularArithmeticSpec, ParitySpec
from workers.tasks.base import IGNORE, Batch, SyntheticTask
from workers.tasks.display import lay_out

PLUS, MINUS, TIMES = range(3)


class ParityTask(SyntheticTask):
    """Parity of uniformly random bits; chance is 1/2."""

    vocab_size = 2

    def __init__(self, spec: ParitySpec) -> None:
        self.name: str = spec.name
        self.seqlen, self.loss_on = spec.seqlen, spec.loss_on

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a batch of `seqlen` bits."""
        inputs = torch.randint(0, 2, (batch_size, self.seqlen), generator=generator, device=device)
        targets = inputs.cumsum(1) % 2
        if self.loss_on == "last":
            targets[:, :-1] = IGNORE
        return Batch(inputs, targets)

    def describe(self, batch: Batch) -> str:
        """Return the first sequence's bits."""
        return lay_out(batch, {})


class ModularArithmeticTask(SyntheticTask):
    """Arithmetic modulo m: tokens 0 .. m-1 are numbers, then +, -, *, =. Operands and operators are uniform.

    Chance is above 1/m, as products are 0 more often than not: a constant 0 is the best guess.
    """

    def __init__(self, spec: ModularArithmeticSpec) -> None:
        self.name: str = spec.name
        self.operands, self.modulus, self.loss_on = spec.operands, spec.modulus, spec.loss_on
        self.vocab_size, self.seqlen = spec.modulus + 4, 2 * spec.operands

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        """Return a batch of `2 operands` positions: numbers and operators in turn, the last an equals sign."""
        shape = (batch_size, self.operands)
        numbers = torch.randint(0, self.modulus, shape, generator=generator, device=device)
        operators = torch.randint(0, 3, shape, generator=generator, device=device)
        signs = self.modulus + operators
        signs[:, -1] = self.modulus + 3
        inputs = torch.stack((numbers, signs), dim=-1).flatten(1)
        values = running_values(numbers, operators[:, :-1], self.modulus)
        targets = torch.full_like(inputs, IGNORE)
        if self.loss_on == "all":
            targets[:, ::2] = values
        targets[:, -1] = values[:, -1]
        return Batch(inputs, targets)

    def describe(self, batch: Batch) -> str:
        """Return the first expression."""
        return lay_out(batch, {self.modulus + place: sign for place, sign in enumerate("+-*=")})


def running_values(numbers: Tensor, operators: Tensor, modulus: int) -> Tensor:
    """Return the value of x1 op x2 .. op xk for every k, modulo `modulus`: (batch, operands).

    The sum of the finished terms s and the term t that is being multiplied change linearly: with x added,
    (s, t, 1) becomes (s + t, x, 1), subtracted (s + t, -x, 1), and multiplied (s, t x, 1). The products of these
    matrices up to each place are taken by doubling: log2(operands) products instead of one after the other.
    """
    step = torch.zeros(*numbers.shape, 3, 3, dtype=torch.int64, device=numbers.device)
    kinds = torch.cat((torch.full_like(numbers[:, :1], PLUS), operators), dim=1)
    times, sign = kinds == TIMES, torch.where(kinds == MINUS, -1, 1)
    step[..., 0, 0] = step[..., 2, 2] = 1
    step[..., 0, 1] = (~times).long()
    step[..., 1, 1] = torch.where(times, numbers, 0)
    step[..., 1, 2] = torch.where(times, 0, sign * numbers)
    reach = 1
    while reach < numbers.shape[1]:
        later, earlier = step[:, reach:], step[:, :-reach]
        product = (later[..., :, :, None] * earlier[..., None, :, :]).sum(-2) % modulus  # no int64 matmul on CUDA
        step = torch.cat((step[:, :reach], product), dim=1)
        reach *= 2
    return (step[..., 0, 2] + step[..., 1, 2]) % modulus  # applied to (0, 0, 1)
