"""A projection of which each part goes its own way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function


def project(x: Tensor, weight: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Return `F.linear(x, weight)` cut into parts of such sizes along the last dimension.

    A `TorchFunctionMode` sees it as one function, and may give the parts memory of their own.
    """
    if has_torch_function((x, weight)):
        parts: tuple[Tensor, ...] = handle_torch_function(project, (x, weight), x, weight, sizes)
        return parts
    return torch.split(F.linear(x, weight), list(sizes), dim=-1)


def project_through(x: Tensor, weight: Tensor, sizes: Sequence[int], first: Tensor) -> tuple[Tensor, ...]:
    """Return x itself and `project(x, weight, sizes)`, of that the first part through another layer: `F.linear(part, first)`.

    x comes back because whoever uses it further should use what is returned: what sees this as one function can then add up
    the gradients of both uses where it makes one of them.
    """
    if has_torch_function((x, weight, first)):
        parts: tuple[Tensor, ...] = handle_torch_function(project_through, (x, weight, first), x, weight, sizes, first)
        return parts
    own, *others = project(x, weight, sizes)
    return x, F.linear(own, first), *others
