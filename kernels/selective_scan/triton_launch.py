"""Host side of the forward scan: which configuration serves a shape, and the launches. Deterministic; nothing is timed at run time."""

from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

from kernels.selective_scan.triton_common import INTERPRETED
from kernels.selective_scan.triton_fwd import scan_kernel
from kernels.selective_scan.triton_kernels import pack_kernel, pass_kernel

CHECKPOINT_STEPS = 32
"""The forward stores the state that enters every position divisible by this; the backward restarts from there."""

MAX_UNROLLED_STATES = 32
"""With more states than this, they are scanned in groups whose carries live in memory rather than in registers."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """How one forward scan is laid out; see README.md of this folder for what the numbers mean."""

    blocks: int
    """Pieces of the sequence that the lanes of one warp hold for one channel group: 1, 2, 4, ... 32."""
    steps: int
    """Time steps of a piece, held by one thread: a power of two, at most 32."""
    channels: int
    """Adjacent channels per thread: 1 or 2."""
    warps: int
    splits: int = 1
    """Programs along the sequence. More than one: three launches instead of one."""
    packed: bool = True
    """Whether selective B and C are first repacked to fp32 in the order in which the lanes read them."""
    fetch: bool = True
    """Whether a tile's rows are prefetched while the tile before is computed."""
    registers: int | None = None
    """Cap on registers per thread."""

    @property
    def tile(self) -> int:
        """Time steps of one tile."""
        return self.blocks * self.steps

    @property
    def width(self) -> int:
        """Channels of one program."""
        return self.warps * (32 // self.blocks) * self.channels


@dataclass(frozen=True, slots=True)
class Arguments:
    """Checked tensors of one forward scan; A, D, dt_bias, initial_state and constant B, C are fp32 and contiguous."""

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


@lru_cache(maxsize=256)
def configuration(batch: int, d_inner: int, seqlen: int, d_state: int, ngroups: int = 1) -> Configuration:
    """Return the configuration that serves a shape: a fixed table, so that the same shape always computes the same bits."""
    del batch, d_state
    channels = 1 if d_inner % 2 or (d_inner // ngroups) % 2 else 1
    if INTERPRETED:
        return Configuration(blocks=4, steps=4, channels=channels, warps=1)
    return Configuration(blocks=4, steps=8, channels=channels, warps=4)


def describe(config: Configuration) -> dict[str, int | bool | None]:
    """Return a configuration for a run's record."""
    return asdict(config)


def scan_forward(
    arguments: Arguments, *, save: bool, config: Configuration | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the forward scan: y, the final state and, if `save`, the checkpoints that the backward restarts from."""
    x = arguments.x
    batch, seqlen, d_inner = x.shape
    d_state = arguments.A.shape[1]
    config = config or configuration(batch, d_inner, seqlen, d_state, arguments.ngroups)
    options = {"device": x.device, "dtype": torch.float32}
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    final_state = torch.empty(batch, d_inner, d_state, **options)
    chunks = triton.cdiv(seqlen, CHECKPOINT_STEPS)
    checkpoints = torch.empty(batch, chunks, d_state, d_inner, **options) if save else None
    split_len, splits = _split(seqlen, config)
    states = spans = final_state
    if splits > 1 or _group_of_states(d_state) != d_state:
        states = torch.empty(batch, splits, d_state, d_inner, **options)
    if splits > 1:
        spans = torch.empty(batch, splits, d_inner, **options)
    packed = _pack(arguments, config)
    launch = _Launch(arguments, config, packed, split_len, splits)
    buffers = (y, final_state, checkpoints, states, spans)
    if splits == 1:
        launch(0, buffers)
        return y, final_state, checkpoints
    launch(1, (y, final_state, None, states, spans))
    block = min(128, triton.next_power_of_2(d_inner))
    pass_kernel[(triton.cdiv(d_inner, block), d_state, batch)](
        states,
        spans,
        arguments.A,
        arguments.initial_state,
        final_state,
        splits,
        D_INNER=d_inner,
        D_STATE=d_state,
        CHANNEL_BLOCK=block,
        num_warps=max(1, block // 32),
    )
    launch(2, buffers)
    return y, final_state, checkpoints


def _split(seqlen: int, config: Configuration) -> tuple[int, int]:
    """Length of a split, a multiple of the tile and of the checkpoints' spacing, and the number of splits."""
    if config.splits == 1:
        return triton.cdiv(seqlen, config.tile) * config.tile, 1
    unit = max(config.tile, CHECKPOINT_STEPS)
    length = triton.cdiv(triton.cdiv(seqlen, config.splits), unit) * unit
    return length, triton.cdiv(seqlen, length)


def _group_of_states(d_state: int) -> int:
    """How many states are unrolled at a time: all of few, else the largest divisor up to 16."""
    if d_state <= MAX_UNROLLED_STATES:
        return d_state
    return max(size for size in range(1, 17) if d_state % size == 0)


def _strides(values: Tensor) -> tuple[int, int, int, int]:
    """Strides of a selective B or C in elements: batch, time, group, state. Zeros for a constant one."""
    if values.dim() == 2:
        return 0, 0, 0, 0
    if values.dim() == 3:
        return values.stride(0), values.stride(1), 0, values.stride(2)
    return values.stride(0), values.stride(1), values.stride(2), values.stride(3)


def _pack(arguments: Arguments, config: Configuration) -> Tensor | None:
    """Return B and C in the order in which the scan's lanes read them, or None where it reads them as they are."""
    B, C = arguments.B, arguments.C
    if not config.packed or (B.dim() == 2 and C.dim() == 2):
        return None
    batch, seqlen, _ = arguments.x.shape
    d_state = arguments.A.shape[1]
    tiles = triton.cdiv(seqlen, config.tile)
    ngroups = arguments.ngroups
    packed = torch.empty(batch, ngroups, tiles, d_state, 2, config.tile, device=B.device, dtype=torch.float32)
    pack_kernel[(tiles, ngroups, batch)](
        None if B.dim() == 2 else B,
        None if C.dim() == 2 else C,
        packed,
        seqlen,
        tiles,
        *_strides(B),
        *_strides(C),
        D_STATE=d_state,
        STATE_BLOCK=triton.next_power_of_2(d_state),
        BLOCKS=config.blocks,
        STEPS=config.steps,
        QUAD=4 if config.steps % 4 == 0 else config.steps,
        num_warps=4,
    )
    return packed


@dataclass(frozen=True, slots=True)
class _Launch:
    """The launches of `scan_kernel` for one scan: they differ in the phase alone."""

    arguments: Arguments
    config: Configuration
    packed: Tensor | None
    split_len: int
    splits: int

    def __call__(self, phase: int, buffers: tuple[Tensor | None, ...]) -> None:
        given, config = self.arguments, self.config
        x, dt, z = given.x, given.dt, given.z
        batch, seqlen, d_inner = x.shape
        constant_dt = dt.dim() == 1
        even = seqlen % config.tile == 0 and d_inner % config.width == 0
        grid = (triton.cdiv(d_inner, config.width), batch, self.splits)
        scan_kernel[grid](
            x,
            dt,
            given.A,
            given.B,
            given.C,
            self.packed,
            given.D,
            z,
            given.dt_bias,
            given.reset,
            given.initial_state,
            *buffers,
            seqlen,
            self.split_len,
            triton.cdiv(seqlen, config.tile),
            x.stride(0),
            0 if constant_dt else dt.stride(0),
            0 if z is None else z.stride(0),
            *_strides(given.B),
            *_strides(given.C),
            X_STRIDE=x.stride(1),
            DT_STRIDE=0 if constant_dt else dt.stride(1),
            Z_STRIDE=0 if z is None else z.stride(1),
            D_INNER=d_inner,
            D_STATE=given.A.shape[1],
            NGROUPS=given.ngroups,
            DT_SOFTPLUS=given.dt_softplus,
            DT_CONSTANT=constant_dt,
            B_CONSTANT=given.B.dim() == 2,
            C_CONSTANT=given.C.dim() == 2,
            PACKED=self.packed is not None,
            PHASE=phase,
            MASKED=not even,
            FETCH=config.fetch and not INTERPRETED,
            BLOCKS=config.blocks,
            STEPS=config.steps,
            CHANNELS=config.channels,
            WARPS=config.warps,
            STATES=_group_of_states(given.A.shape[1]),
            num_warps=config.warps,
            maxnreg=config.registers,
        )
