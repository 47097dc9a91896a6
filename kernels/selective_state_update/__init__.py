"""The recurrence of Mamba-1, one position at a time."""

from kernels.selective_state_update.api import selective_state_update

__all__ = ["selective_state_update"]
