"""What every op shares: its errors, its shape checks and the choice of implementation."""

from kernels.common.choice import reset_used, used
from kernels.common.errors import KernelError, ShapeError, UnsupportedError

__all__ = ["KernelError", "ShapeError", "UnsupportedError", "reset_used", "used"]
