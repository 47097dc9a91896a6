"""Decorators that tell `torch.compile` what to do with a function, typed."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

_F = TypeVar("_F", bound=Callable[..., Any])


def constant_under_compile(function: _F) -> _F:
    """Mark a function to be called once while tracing; its result becomes a constant of the compiled code."""
    return cast(_F, torch.compiler.assume_constant_result(function))  # type: ignore[no-untyped-call]


def uncompiled(function: _F) -> _F:
    """Mark a function to be called as it is: compiled code breaks its graph before and after it."""
    return cast(_F, torch.compiler.disable(function))  # type: ignore[no-untyped-call]
