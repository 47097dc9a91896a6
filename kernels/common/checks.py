"""Checks of arguments, shared by the ops' public functions. Each names the argument, what was expected and what came."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kernels.common.errors import ShapeError, UnsupportedError

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FLOATING_OR_COMPLEX = (*FLOATING, torch.complex64, torch.complex128)

Dims = Sequence[tuple[str, int]]
"""A shape in words: ordered pairs of a dimension's name and size."""


def check_rank(op: str, name: str, tensor: Tensor, forms: Sequence[str]) -> None:
    """Raise ShapeError unless the tensor has as many dimensions as one of `forms`, each like "(batch, seqlen)"."""
    if tensor.dim() not in {form.count(",") + 1 if not form.endswith(",)") else 1 for form in forms}:
        raise ShapeError(f"{op}: {name} must have shape {' or '.join(forms)}, got {tuple(tensor.shape)}")


def check_shape(op: str, name: str, tensor: Tensor, dims: Dims) -> None:
    """Raise ShapeError unless the tensor's shape is exactly the sizes in `dims`."""
    if tuple(tensor.shape) != tuple(size for _, size in dims):
        expected = ", ".join(f"{word}={size}" for word, size in dims)
        raise ShapeError(f"{op}: {name} must have shape ({expected}), got {tuple(tensor.shape)}")


def check_nonempty(op: str, name: str, dims: Dims) -> None:
    """Raise ShapeError if one of the sizes is zero: an empty scan has no last state."""
    for word, size in dims:
        if size < 1:
            raise ShapeError(f"{op}: {name} must have {word} >= 1, got {word}={size}")


def check_dtype(op: str, name: str, tensor: Tensor, allowed: Iterable[torch.dtype]) -> None:
    """Raise UnsupportedError unless the tensor's dtype is among `allowed`."""
    names = tuple(allowed)
    if tensor.dtype not in names:
        raise UnsupportedError(f"{op}: {name} must have dtype {_words(names)}, got {_word(tensor.dtype)}")


def check_device(op: str, x: Tensor, others: Iterable[tuple[str, Tensor | None]]) -> None:
    """Raise UnsupportedError unless every tensor given is on the device of `x`."""
    for name, tensor in others:
        if tensor is not None and tensor.device != x.device:
            raise UnsupportedError(
                f"{op}: {name} is on {tensor.device} but x is on {x.device}; move all arguments to one device"
            )


def state_dtype(x: Tensor) -> torch.dtype:
    """The dtype that sums, states and residual streams are kept in: float64 for float64 inputs, float32 for others."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _words(dtypes: Sequence[torch.dtype]) -> str:
    return " or ".join(_word(dtype) for dtype in dtypes)
