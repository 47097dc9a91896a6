"""What a Triton backward scan is to compute, and how the work is divided: shapes, strides and sizes, no kernels."""

import math
from dataclasses import dataclass

from torch import Tensor

TILE = 32
STATE_BLOCK = 16
LANE_GROUPS = 8  # channel groups side by side in a warp
WARPS_WANTED = 1024  # main-kernel warps that fill a large GPU at 255 registers: 8 on each of 132 multiprocessors
CARRY_WARPS_WANTED = 8192


@dataclass(frozen=True, slots=True)
class Plan:
    """How one backward is divided. It depends on shapes alone, so equal shapes give equal bits."""

    warps: int
    channels: int
    chunks: int
    chunk_tiles: int
    piece_steps: int
    prefetch: bool = True

    @property
    def width(self) -> int:
        """Channels of one program of the main kernel."""
        return LANE_GROUPS * self.warps * self.channels


def plan_backward(batch: int, seqlen: int, d_inner: int, d_state: int, ngroups: int) -> Plan:
    """Choose the division of a backward: sequence chunks when there are too few channels to fill the GPU."""
    channels = 2
    tiles = math.ceil(seqlen / TILE)
    group_size = d_inner // ngroups
    group_warps = math.ceil(group_size / (LANE_GROUPS * channels))
    strands = batch * ngroups * group_warps
    chunks = min(tiles, max(1, WARPS_WANTED // strands))
    chunk_tiles = math.ceil(tiles / chunks)
    chunks = math.ceil(tiles / chunk_tiles)
    warps = 8
    while warps > 1 and (warps > group_warps or strands * chunks < 96 * warps):
        warps //= 2
    piece_steps = TILE * chunk_tiles
    shortest = TILE if chunk_tiles > 1 else TILE // 2
    carry_strands = batch * ngroups * math.ceil(group_size / 32) * math.ceil(d_state / STATE_BLOCK)
    while piece_steps % (2 * shortest) == 0 and carry_strands * seqlen < CARRY_WARPS_WANTED * piece_steps:
        piece_steps //= 2
    return Plan(warps, channels, chunks, chunk_tiles, piece_steps)


@dataclass(frozen=True, slots=True)
class Problem:
    """The arguments, in the forms that the kernels take."""

    x: Tensor
    dt: Tensor
    z: Tensor | None
    dy: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    reset: Tensor | None
    dfinal: Tensor | None
    checkpoints: Tensor
    softplus: bool
    ngroups: int
    initial: bool
    """Whether the gradient of an initial state is wanted."""
    spend: bool
    """Whether partial sums may take the place of `checkpoints`."""

    @property
    def B_constant(self) -> bool:
        return self.B.dim() == 2

    @property
    def C_constant(self) -> bool:
        return self.C.dim() == 2

    @property
    def dt_constant(self) -> bool:
        return self.dt.dim() == 1

    @property
    def state(self) -> int:
        return self.A.shape[1]

    @property
    def tiles(self) -> int:
        return math.ceil(self.x.shape[1] / TILE)

    def rows(self) -> list[Tensor | None]:
        """The tensors laid out (batch, seqlen, d_inner), in the kernels' order; None for a constant dt or no gate."""
        return [self.x, None if self.dt_constant else self.dt, self.z, self.dy]


def with_groups(values: Tensor, ngroups: int) -> Tensor:
    """Return selective B or C with a dimension of exactly `ngroups` groups; constant ones as they are."""
    if values.dim() == 2:
        return values
    values = values if values.dim() == 4 else values[:, :, None]
    return values if values.shape[2] == ngroups else values.repeat_interleave(ngroups // values.shape[2], dim=2)


def without_groups(gradient: Tensor, values: Tensor) -> Tensor:
    """Undo `with_groups` for a gradient: sum over the groups that shared one row of the original."""
    if values.dim() == 2 or gradient.numel() == values.numel():
        return gradient.view(values.shape)
    shape = (*values.shape[:2], values.shape[2] if values.dim() == 4 else 1, -1, values.shape[-1])
    return gradient.view(shape).sum(3).view(values.shape).to(values.dtype)


def four_strides(values: Tensor) -> tuple[int, ...]:
    return values.stride() if values.dim() == 4 else (values.stride(0), 0, 0, values.stride(1))


def three_strides(values: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if values is None else values.stride()


def in_pairs(row: Tensor | None) -> bool:
    """Whether two neighbouring channels of a (batch, seqlen, d_inner) tensor can be loaded as one word."""
    if row is None:
        return True
    word = 2 * row.element_size()
    return row.stride(2) == 1 and row.stride(1) % 2 == 0 and row.stride(0) % 2 == 0 and row.data_ptr() % word == 0
