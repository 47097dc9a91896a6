"""The rates at which states decay, as layers learn them: by their logarithms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary


def decay_rates(log: Tensor) -> Tensor:
    """Return -exp(log), of any shape.

    A `TorchFunctionMode` sees it as one function: they depend on parameters alone, so that a training step can compute those
    of all layers at once and need not wait for their gradients.
    """
    if has_torch_function_unary(log):
        rates: Tensor = handle_torch_function(decay_rates, (log,), log)
        return rates
    return -torch.exp(log)
