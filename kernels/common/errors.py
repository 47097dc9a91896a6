"""The exceptions that the ops raise.

KernelError (also a ValueError)
├── ShapeError        an argument's shape disagrees with the others
└── UnsupportedError  a device, dtype, size or implementation that the op cannot serve
"""


class KernelError(ValueError):
    """An op was called with arguments it cannot compute with."""


class ShapeError(KernelError):
    """An argument's shape is not the expected one; the message names argument, expected and received."""


class UnsupportedError(KernelError):
    """The request is well formed but cannot be met; the message names what works instead."""
