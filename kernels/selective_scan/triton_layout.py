"""How one forward scan is laid out on the GPU; README.md of this folder says what the numbers mean."""

from dataclasses import dataclass
from typing import Literal


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
    lanes: Literal["time", "states"] = "time"
    """What lanes share: consecutive pieces of the sequence (`scan_kernel`) or the states of a channel (`lean_kernel`)."""
    splits: int = 1
    """Programs along the sequence. More than one: three launches instead of one."""
    packed: bool = True
    """Whether selective B and C are first repacked to fp32 in the order in which the lanes read them ("states": always)."""
    fetch: bool = True
    """Whether what a later tile reads is requested while this one is computed."""
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
