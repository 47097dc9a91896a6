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
