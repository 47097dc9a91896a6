"""The launches of the forward scan's kernels: which arguments go where."""

from dataclasses import dataclass
from math import prod

import triton
from torch import Tensor

from kernels.selective_scan.triton_arguments import Arguments, state_strides
from kernels.selective_scan.triton_checkpoints import are_in_halves
from kernels.selective_scan.triton_common import INTERPRETED
from kernels.selective_scan.triton_fwd import scan_kernel
from kernels.selective_scan.triton_layout import Configuration
from kernels.selective_scan.triton_lean import lean_kernel
from kernels.selective_scan.triton_products import product_kernel
from kernels.selective_scan.triton_relay import relay_kernel
from kernels.selective_scan.triton_teams import team_kernel

SCRATCH = 12288
"""Floats of shared memory that no program exceeds: 48 KiB."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The launches of the scanning kernel for one scan: they differ in the phase alone."""

    arguments: Arguments
    config: Configuration
    packed: Tensor | None
    split_len: int
    splits: int

    def launch(self, phase: int, buffers: tuple[Tensor | None, ...]) -> None:
        """Launch the kernel that the configuration says; `buffers` are y, final state, checkpoints, and states and spans of splits."""
        kinds = {
            "time": self._over_time,
            "states": self._over_states,
            "products": self._by_products,
            "teams": self._by_teams,
            "relay": self._by_relay,
        }
        kinds[self.config.lanes](phase, buffers)

    def _over_time(self, phase: int, buffers: tuple[Tensor | None, ...]) -> None:
        """Launch `scan_kernel`."""
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
            *state_strides(given.B),
            *state_strides(given.C),
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
            STATES=group_of_states(given.A.shape[1]),
            HALVES=_in_halves(buffers[2]),
            num_warps=config.warps,
            maxnreg=config.registers,
        )

    def _over_states(self, phase: int, buffers: tuple[Tensor | None, ...]) -> None:
        """Launch `lean_kernel`."""
        given, config, packed = self.arguments, self.config, self.packed
        assert packed is not None
        x, dt, z = given.x, given.dt, given.z
        batch, seqlen, d_inner = x.shape
        even = seqlen % config.tile == 0 and d_inner % config.width == 0
        lean_kernel[(triton.cdiv(d_inner, config.width), batch, self.splits)](
            x,
            dt,
            given.A,
            packed,
            given.D,
            z,
            given.dt_bias,
            given.initial_state,
            *buffers,
            seqlen,
            self.split_len,
            packed.shape[2],
            x.stride(0),
            dt.stride(0),
            0 if z is None else z.stride(0),
            X_STRIDE=x.stride(1),
            DT_STRIDE=dt.stride(1),
            Z_STRIDE=0 if z is None else z.stride(1),
            D_INNER=d_inner,
            NGROUPS=given.ngroups,
            D_STATE=given.A.shape[1],
            DT_SOFTPLUS=given.dt_softplus,
            PHASE=phase,
            MASKED=not even,
            TOUCH=config.fetch and not INTERPRETED,
            SHARES=config.blocks,
            ROUNDS=config.steps,
            CHANNELS=config.channels,
            WARPS=config.warps,
            num_warps=config.warps,
            maxnreg=config.registers,
        )

    def _by_products(self, phase: int, buffers: tuple[Tensor | None, ...]) -> None:
        """Launch `product_kernel`."""
        given, config = self.arguments, self.config
        batch, seqlen, d_inner = given.x.shape
        grid = (triton.cdiv(d_inner, config.width), batch, self.splits)
        product_kernel[grid](
            *self._tensors(),
            *buffers,
            self._scratch(grid),
            seqlen,
            self.split_len,
            *self._strides(),
            **self._options(),
            D_STATE=given.A.shape[1],
            PHASE=phase,
            CHANNELS=config.channels,
            WARPS=config.warps,
            HALVES=_in_halves(buffers[2]),
            num_warps=config.warps,
            maxnreg=config.registers,
        )

    def _by_teams(self, phase: int, buffers: tuple[Tensor | None, ...]) -> None:
        """Launch `team_kernel`."""
        assert phase == 0
        given, config = self.arguments, self.config
        batch, seqlen, d_inner = given.x.shape
        grid = (triton.cdiv(d_inner, config.width), batch, 1)
        options = self._options()
        team_kernel[grid](
            *self._tensors(),
            *buffers[:3],
            self._scratch(grid),
            seqlen,
            *self._strides(),
            **options,
            UNROLL=1 if options["MASKED"] else config.unroll,
            num_warps=config.warps,
            maxnreg=config.registers,
        )

    def _by_relay(self, phase: int, buffers: tuple[Tensor | None, ...]) -> None:
        """Launch `relay_kernel`."""
        assert phase == 0
        given, config = self.arguments, self.config
        batch, seqlen, d_inner = given.x.shape
        grid = (triton.cdiv(d_inner, config.width), batch, 1)
        relay_kernel[grid](
            *self._tensors(),
            *buffers[:3],
            self._scratch(grid),
            seqlen,
            *self._strides(),
            **self._options(),
            WARPS=config.warps,
            UNROLL=config.unroll if seqlen % (config.tile * config.unroll) == 0 else 1,
            num_warps=config.warps,
            maxnreg=config.registers,
        )

    def _scratch(self, grid: tuple[int, int, int]) -> Tensor:
        """What stands in for shared memory where there is none to claim, in the interpreter; else anything."""
        return self.arguments.A.new_zeros(prod(grid) * SCRATCH) if INTERPRETED else self.arguments.A

    def _tensors(self) -> tuple[Tensor | None, ...]:
        given = self.arguments
        return given.x, given.dt, given.A, given.B, given.C, given.D, given.z, given.dt_bias, given.initial_state

    def _strides(self) -> tuple[int, ...]:
        given = self.arguments
        rows = (given.x, given.dt, given.z, given.B, given.C)
        return (
            *(0 if row is None else row.stride(0) for row in rows),
            state_strides(given.B)[2],
            state_strides(given.C)[2],
        )

    def _options(self) -> dict[str, int | bool]:
        given, config = self.arguments, self.config
        _, seqlen, d_inner = given.x.shape
        rows = {"X": given.x, "DT": given.dt, "Z": given.z, "B": given.B, "C": given.C}
        return {
            **{f"{name}_STRIDE": 0 if row is None else row.stride(1) for name, row in rows.items()},
            "D_INNER": d_inner,
            "NGROUPS": given.ngroups,
            "DT_SOFTPLUS": given.dt_softplus,
            "MASKED": seqlen % config.tile != 0 or d_inner % config.width != 0,
        }


def _in_halves(checkpoints: Tensor | None) -> bool:
    return checkpoints is not None and are_in_halves(checkpoints)


def group_of_states(d_state: int) -> int:
    """How many states the scan unrolls at a time: four where that divides, else the largest divisor up to eight."""
    if d_state % 4 == 0:
        return 4
    return max(size for size in range(1, 9) if d_state % size == 0)
