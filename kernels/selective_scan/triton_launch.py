"""Host side of the forward scan: which configuration serves a shape, and the launches. Deterministic; nothing is timed at run time."""

from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import lru_cache, partial

import torch
import triton
from torch import Tensor

from kernels.common.choice import Layout, record_layout
from kernels.selective_scan.triton_arguments import Arguments, Shape, state_strides
from kernels.selective_scan.triton_calls import Scan
from kernels.selective_scan.triton_checkpoints import CHECKPOINT_STEPS, in_halves, kept_shape
from kernels.selective_scan.triton_common import INTERPRETED
from kernels.selective_scan.triton_kernels import pack_kernel, pass_kernel
from kernels.selective_scan.triton_layout import Configuration
from kernels.selective_scan.triton_table import (
    SIXTEEN_STATES,
    SIXTY_FOUR_STATES,
    WORDS,
    WORDS_SIXTY_FOUR_STATES,
)

__all__ = [
    "CHECKPOINT_STEPS",
    "Arguments",
    "Shape",
    "configuration",
    "describe",
    "scan_forward",
    "serves",
]

CARRIES_IN_REGISTERS = 32
"""Up to so many states are carried along the sequence in registers, more of them in memory; as in `scan_kernel`."""

RELAY_CHANNELS = 2112
"""As many channels as the programs of `relay_kernel` have that run at once: two on each of 132 multiprocessors, 8 channels each."""

KEEP_HALVES = ("time", "products")
"""Lanes that can keep states in halves: one of them serves every shape that has them so."""

MAX_PRODUCT_STATES = 64
"""More states than these do not fit the registers of a thread, with products."""


@lru_cache(maxsize=256)
def configuration(shape: Shape) -> Configuration:
    """Return the configuration that serves a shape: a fixed table, so that the same shape always computes the same bits."""
    paired = shape.d_inner % 2 == 0 and (shape.d_inner // shape.ngroups) % 2 == 0
    if INTERPRETED:
        return Configuration(blocks=4, steps=4, channels=2 if paired else 1, warps=1)
    work = shape.batch * shape.d_inner
    if shape.words and shape.d_state == 16:
        chosen = _within_groups(_for_words(shape, work), shape)
        if chosen is not None:
            return chosen
    if shape.words and shape.d_state in (32, 48, 64) and work >= 6144:
        chosen = _within_groups(WORDS_SIXTY_FOUR_STATES, shape)
        if chosen is not None:
            return chosen
    if shape.lean and paired and shape.d_state == 16:
        chosen = _within_groups(_for_sixteen_states(work, shape.seqlen), shape)
        if chosen is not None:
            return chosen
    if shape.lean and paired and shape.ngroups == 1 and shape.d_state == 64 and work >= 4096:
        return SIXTY_FOUR_STATES
    if work >= 12288:
        return Configuration(blocks=4, steps=8, channels=1, warps=4, registers=128)
    if work >= 6144:
        return Configuration(blocks=8, steps=8, channels=1, warps=4, registers=128)
    return Configuration(blocks=16, steps=8, channels=1, warps=4, registers=128)


def _within_groups(config: Configuration, shape: Shape) -> Configuration | None:
    """The configuration with as many warps as keep a program's channels in one group of B and C, or None where one is too many."""
    while not _keeps_groups(config, shape.d_inner, shape.ngroups):
        if config.lanes in ("teams", "relay") or config.warps == 1:
            return None
        config = replace(config, warps=config.warps // 2)
    return config


def _keeps_groups(config: Configuration, d_inner: int, ngroups: int) -> bool:
    """Whether all channels of every program have the same B and C."""
    return ngroups == 1 or (d_inner // ngroups) % config.width == 0


def _for_words(shape: Shape, work: int) -> Configuration:
    """The table for 16 states in bf16, as Mamba has them under autocast."""
    if work >= 12288:
        return WORDS["many channels"]
    if work >= 4096:
        return WORDS["half as many"]
    if work < 1024 and shape.seqlen >= 8192:
        return replace(WORDS["few, long"], splits=min(32768 // work, shape.seqlen // 256))
    return WORDS["few" if work <= RELAY_CHANNELS else "a quarter"]


def _for_sixteen_states(work: int, seqlen: int) -> Configuration:
    """The table for Mamba's usual d_state, by batch x d_inner: about a thousand warps fill an H100."""
    if work >= 32768:
        return SIXTEEN_STATES["most channels"]
    if work >= 12288:
        return SIXTEEN_STATES["many channels"]
    if work >= 6144:
        return SIXTEEN_STATES["half as many"]
    if work * seqlen < 2**20:
        return SIXTEEN_STATES["tiny"]
    chosen = SIXTEEN_STATES["few, long" if seqlen >= 8192 else "few, short"]
    # fewer channels than the 2048 of the measured shapes leave room for more splits, short sequences for fewer
    splits = 1 if chosen.splits == 1 else min(max(1, chosen.splits * 2048 // work), max(1, seqlen // 256))
    return replace(chosen, splits=splits)


def serves(config: Configuration, arguments: Arguments) -> bool:
    """Whether `config` can serve these arguments: only lanes over time know constants, resets and groups of any size."""
    d_inner, d_state = arguments.A.shape
    if config.lanes == "time":
        return True
    if not _keeps_groups(config, d_inner, arguments.ngroups):
        return False
    if config.lanes == "states":
        return arguments.lean
    if config.lanes in ("teams", "relay"):
        return arguments.words and d_state == 16
    return arguments.words and d_state % 16 == 0 and d_state <= MAX_PRODUCT_STATES


def describe(config: Configuration) -> Layout:
    """Return a configuration for a run's record."""
    return asdict(config)


def scan_forward(
    arguments: Arguments, *, save: bool, config: Configuration | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the forward scan: y, the final state and, if `save`, the checkpoints that the backward restarts from."""
    x = arguments.x
    batch, seqlen, d_inner = x.shape
    d_state = arguments.A.shape[1]
    config = config or configuration(arguments.shape)
    assert serves(config, arguments)
    record_layout("selective_scan", f"{batch}x{d_inner}x{seqlen}x{d_state}", partial(describe, config))
    device = x.device
    y = torch.empty(x.shape, dtype=x.dtype, device=device)
    final_state = torch.empty(batch, d_inner, d_state, dtype=torch.float32, device=device)
    checkpoints = None
    if save:
        given = (x, arguments.dt, arguments.A, arguments.B, arguments.C, arguments.z)
        halves = in_halves(*given) and config.lanes in KEEP_HALVES
        checkpoints = torch.empty(kept_shape(x, d_state, halves=halves), dtype=torch.float32, device=device)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        packed = _pack(arguments, config)
        _launch(arguments, config, packed, (y, final_state, checkpoints))
    return y, final_state, checkpoints


def _launch(
    arguments: Arguments, config: Configuration, packed: Tensor | None, outputs: tuple[Tensor, Tensor, Tensor | None]
) -> None:
    """Scan in one launch, or in three where the sequence is split: the splits' own ends, the pass over them, the scan."""
    batch, seqlen, d_inner = arguments.x.shape
    d_state = arguments.A.shape[1]
    y, final_state, checkpoints = outputs
    split_len, splits = _split(seqlen, config)
    states = spans = final_state
    if splits > 1 or d_state > CARRIES_IN_REGISTERS:
        states = final_state.new_empty(batch, splits, d_state, d_inner)
    if splits > 1:
        spans = final_state.new_empty(batch, splits, d_inner)
    launch = Scan(arguments, config, packed, split_len, splits).launch
    if splits == 1:
        launch(0, (y, final_state, checkpoints, states, spans))
        return
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
    launch(2, (y, final_state, checkpoints, states, spans))


def _split(seqlen: int, config: Configuration) -> tuple[int, int]:
    """Length of a split, a multiple of the tile and of the checkpoints' spacing, and the number of splits."""
    if config.splits == 1:
        return triton.cdiv(seqlen, config.tile) * config.tile, 1
    unit = max(config.tile, CHECKPOINT_STEPS)
    length = triton.cdiv(triton.cdiv(seqlen, config.splits), unit) * unit
    return length, triton.cdiv(seqlen, length)


def _pack(arguments: Arguments, config: Configuration) -> Tensor | None:
    """Return B and C in the order in which the scan's lanes read them, or None where it reads them as they are."""
    B, C = arguments.B, arguments.C
    if not config.packed or config.lanes in ("products", "teams", "relay") or (B.dim() == 2 and C.dim() == 2):
        return None
    batch, seqlen, _ = arguments.x.shape
    d_state = arguments.A.shape[1]
    states = config.lanes == "states"
    tiles = triton.cdiv(seqlen, config.tile) + (
        2 if states else 0
    )  # lanes over states request two tiles beyond the end
    ngroups = arguments.ngroups
    packed = torch.empty(batch, ngroups, tiles, d_state, 2, config.tile, device=B.device, dtype=torch.float32)
    pack_kernel[(tiles, ngroups, batch)](
        None if B.dim() == 2 else B,
        None if C.dim() == 2 else C,
        packed,
        seqlen,
        tiles,
        *state_strides(B),
        *state_strides(C),
        D_STATE=d_state,
        STATE_BLOCK=triton.next_power_of_2(d_state),
        BLOCKS=config.blocks,
        STEPS=config.steps,
        QUAD=4 if config.steps % 4 == 0 else min(config.steps, 2),
        SHARES=config.blocks if states else 0,
        num_warps=4,
    )
    return packed
