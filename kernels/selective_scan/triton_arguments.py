"""What a forward scan is given, and what the choice of its layout depends on."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Arguments:
    """Checked tensors of one forward scan; A, D, dt_bias, initial_state and constant B, C are fp32 and contiguous.

    With complex A all of A, B, C and initial_state are complex64.
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    dt_softplus: bool
    initial_state: Tensor | None
    reset: Tensor | None

    @property
    def ngroups(self) -> int:
        """Groups of channels that share B and C."""
        return max((values.shape[2] for values in (self.B, self.C) if values.dim() == 4), default=1)

    @property
    def lean(self) -> bool:
        """Selective dt, B and C, and no reset."""
        return self.dt.dim() == 3 and self.B.dim() > 2 and self.C.dim() > 2 and self.reset is None

    @property
    def words(self) -> bool:
        """Whether all that varies in time is bf16, eight neighbouring channels 16 aligned bytes, and four states of B and C 8."""
        rows = [(self.x, 8), (self.dt, 8), (self.B, 4), (self.C, 4)] + ([] if self.z is None else [(self.z, 8)])
        return self.lean and all(_in_words(values, count) for values, count in rows)

    @property
    def shape(self) -> "Shape":
        """What the choice of a configuration depends on."""
        batch, seqlen, d_inner = self.x.shape
        return Shape(batch, d_inner, seqlen, self.A.shape[1], self.ngroups, self.lean, self.words)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the choice of a configuration depends on."""

    batch: int
    d_inner: int
    seqlen: int
    d_state: int
    ngroups: int = 1
    lean: bool = True
    """Selective dt, B and C, and no reset."""
    words: bool = False
    """As `Arguments.words`."""


def _in_words(values: Tensor, count: int) -> bool:
    aligned = values.data_ptr() % (2 * count) == 0 and all(stride % count == 0 for stride in values.stride()[:-1])
    aligned = aligned and values.shape[-1] % count == 0
    return values.dtype == torch.bfloat16 and values.stride(-1) == 1 and aligned


def state_strides(values: Tensor) -> tuple[int, int, int, int]:
    """Strides of a selective B or C in elements: batch, time, group, state. Zeros for a constant one."""
    if values.dim() == 2:
        return 0, 0, 0, 0
    if values.dim() == 3:
        return values.stride(0), values.stride(1), 0, values.stride(2)
    return values.stride(0), values.stride(1), values.stride(2), values.stride(3)
