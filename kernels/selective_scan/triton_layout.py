"""How one forward scan is laid out on the GPU; README.md of this folder says what the numbers mean."""

from dataclasses import dataclass
from typing import Literal

TEAM = 4
"""Warps that share a channel's states, with "teams"."""

TEAM_SPAN = 32
"""Steps that such warps take between two barriers."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """How one forward scan is laid out; see README.md of this folder for what the numbers mean."""

    blocks: int
    """How many lanes of a warp share a channel group: 1, 2, 4, ... 32."""
    steps: int
    """Time steps of a tile per such lane; with "time", at most 32."""
    channels: int
    """Adjacent channels per thread: 1 or 2."""
    warps: int
    lanes: Literal["time", "states", "products", "teams", "relay"] = "time"
    """What lanes share: consecutive pieces of the sequence (`scan_kernel`), the states of a channel (`lean_kernel`), these with
    tensor cores (`product_kernel`: four lanes, blocks of 8 steps), these over four warps as well (`team_kernel`), or with each warp taking
    every `warps`-th block (`relay_kernel`)."""
    splits: int = 1
    """Programs along the sequence. More than one: three launches instead of one."""
    packed: bool = True
    """Whether selective B and C are first repacked to fp32 in the order in which the lanes read them ("states": always)."""
    fetch: bool = True
    """Whether what a later tile reads is requested while this one is computed."""
    registers: int | None = None
    """Cap on registers per thread. Without one the compiler saves registers at the cost of waits; a high one frees it."""
    unroll: int = 1
    """Tiles of a loop's body: with teams where nothing is masked; with turns, 1 or 4, where that many divide a sequence."""

    @property
    def tile(self) -> int:
        """Time steps of one tile."""
        if self.lanes == "teams":
            return TEAM_SPAN
        return self.blocks * self.steps * (self.warps if self.lanes == "relay" else 1)

    @property
    def width(self) -> int:
        """Channels of one program."""
        sharers = {"teams": TEAM, "relay": self.warps}.get(self.lanes, 1)
        return self.warps // sharers * (32 // self.blocks) * self.channels
