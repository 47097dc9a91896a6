"""Clipping and AdamW of several models' parameters, and all that their next step takes of them, in two kernels."""

from kernels.stacked_adamw.api import Hyper, Rows, Taken, derive, serves, update

__all__ = ["Hyper", "Rows", "Taken", "derive", "serves", "update"]
