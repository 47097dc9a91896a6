"""The tensors of a training state, as a checkpoint holds them: as they are, or copied so that training may go on meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Parameters and optimizer state by name; names of one weight share one tensor. `wait` before they are read."""

    parameters: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    copied: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Return once the copies have reached the host."""
        if self.copied is not None:
            self.copied.synchronize()

    def as_module(self) -> nn.Module:
        """Return something whose state is the parameters."""
        return _Holder(self.parameters)


class _Holder(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._tensors = tensors

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the tensors."""
        return dict(self._tensors)


def take_snapshot(model: nn.Module, optimizer: torch.optim.Optimizer, *, apart: bool) -> Snapshot:
    """Return the state of a model and its optimizer.

    With `apart` it is copied to host memory, pinned for a GPU's, and stays what it is while training goes on: the copies are
    queued behind the steps asked for so far, and nothing here waits for them. Else only what has no storage of its own is
    copied, such as the members of an ensemble: the file format knows no parts of storages.
    """
    copies: dict[tuple[int, torch.Size], Tensor] = {}

    def taken(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        if whole and not apart:
            return tensor
        key = (tensor.data_ptr(), tensor.shape)  # a weight with two names keeps both
        if key not in copies:
            copies[key] = _copied(tensor) if apart else tensor.clone()
        return copies[key]

    parameters = {name: taken(tensor) for name, tensor in model.state_dict().items()}
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    # a member of an ensemble has one count of updates for all its parameters: files know no shared numbers
    state = {
        f"{slot}/{names[parameter]}": _copied(value) if apart else value.contiguous() if value.dim() else value.clone()
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
    }
    copied = None
    if apart and any(tensor.is_cuda for tensor in model.parameters()):
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
    return Snapshot(parameters, state, copied)


def _copied(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return copy.copy_(tensor, non_blocking=True)
