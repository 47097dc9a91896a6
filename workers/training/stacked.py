"""Models that differ in no shape as one: their parameters in one storage, and one forward pass for all of them.

Each member keeps its own `LanguageModel`, whose parameters are views of the storage, so its checkpoints and its evaluation need
not know of the others. The forward pass is `torch.vmap` over `functional_call`; autograd lies outside, so a sum of the members'
losses gives each member's parameters their own gradient, and no others'.
"""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from workers.models import LanguageModel

Through = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
_OF_CHANNELS = ("mixer.conv_weight", "mixer.conv_bias", "inner.dt_bias", "inner.D")
_ALIGNMENT = 8  # numbers; products want their operands at multiples of 16 bytes, in bf16 too


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a parameter lies in each member's row."""

    start: int
    shape: torch.Size

    def of(self, rows: Tensor) -> Tensor:
        """Return the parameter's part of (members, width) rows, (members, *shape)."""
        return rows[:, self.start : self.start + self.shape.numel()].view(len(rows), *self.shape)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Columns of the rows, and the parameters that lie there."""

    columns: slice
    names: tuple[str, ...]


@contextlib.contextmanager
def member_by_member() -> Iterator[None]:
    """Let what has no rule for members be done one by one, at no loss: attention on a CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop because we have not yet implemented")
        yield


class Stack:
    """Moves the models' parameters into one storage, a row a member, and computes with all at once.

    The models go on as they are: what is written into a model's parameter is in the storage, and the other way round.

    Args:
        models: the members' models, all parameters of one dtype.
        groups: names of parameters that every member's optimizer treats alike; each group is a stretch of the rows.
    """

    def __init__(self, models: Sequence[LanguageModel], groups: Sequence[Sequence[str]]) -> None:
        self.members = len(models)
        self.names = [name for name, _ in models[0].named_parameters()]
        self.parameters = [dict(model.named_parameters()) for model in models]
        self.stretches: list[Stretch] = []
        self._places: dict[str, _Place] = {}
        width = self._lay_out(groups)
        self.rows = next(models[0].parameters()).new_zeros(self.members, width)
        self._stacked: dict[str, nn.Parameter] = {}
        for name in self.names:
            view = self.view(name, self.rows)
            with torch.no_grad():
                torch.stack([parameters[name].detach() for parameters in self.parameters], out=view)
            for parameters, own in zip(self.parameters, view.unbind(), strict=True):
                parameters[name].data = own
            self._stacked[name] = nn.Parameter(view)
        self.skeleton = copy.deepcopy(models[0])  # only its code is used
        self.skeleton.train()
        self._together = torch.vmap(self._forward)
        self._alike = torch.vmap(self._forward, in_dims=(0, None))

    @property
    def storages(self) -> nn.ParameterList:
        """What is learnt: all members' parameters of one name in each, views of the rows."""
        return nn.ParameterList(self._stacked.values())

    @property
    def by_name(self) -> Mapping[str, Tensor]:
        """The members' parameters, (members, *shape), by the names that they have in each model."""
        return self._stacked

    @property
    def head(self) -> Tensor:
        """The members' heads, (members, vocab_size, d_model)."""
        own = {id(parameter): name for name, parameter in self.skeleton.named_parameters()}
        return self._stacked[own[id(self.skeleton.head.weight)]]

    def view(self, name: str, rows: Tensor) -> Tensor:
        """Return a parameter's part of rows that are laid out as the parameters are, (members, *shape)."""
        return self._places[name].of(rows)

    def columns(self, name: str) -> slice:
        """Return where a parameter lies in the rows."""
        place = self._places[name]
        return slice(place.start, place.start + place.shape.numel())

    def feeding_channels(self) -> frozenset[int]:
        """Return the ids of storages of weights whose products feed a convolution or a scan."""
        names = ("mixer.in_proj.weight", "dt_weight")
        return frozenset(id(storage) for name, storage in self._stacked.items() if name.endswith(names))

    @property
    def of_channels(self) -> frozenset[str]:
        """The names of parameters that belong to the channels of a convolution or a scan."""
        return frozenset(name for name in self.names if name.endswith(_OF_CHANNELS))

    def forward(self, tokens: Tensor, through: Through | None = None) -> Tensor:
        """Return logits (members, batch, seqlen, vocab_size) for int64 tokens (members, batch, seqlen), or the same for all.

        `through` gives what is computed with in place of the stacked parameters.
        """
        parameters: Mapping[str, Tensor] = self._stacked if through is None else through(self._stacked)
        with member_by_member():
            logits: Tensor = (self._together if tokens.dim() == 3 else self._alike)(parameters, tokens)
        return logits

    def zero_gradients(self) -> None:
        """Forget the gradients."""
        for storage in self._stacked.values():
            storage.grad = None

    def gradients(self) -> Tensor:
        """Return all gradients as rows that are laid out as the parameters are; zeros where there is none."""
        pieces: list[Tensor] = []
        end = 0
        for name, place in self._places.items():
            gradient = self._stacked[name].grad
            if place.start > end:
                pieces.append(self._nothing(place.start - end))
            size = place.shape.numel()
            pieces.append(self._nothing(size) if gradient is None else gradient.reshape(self.members, size))
            end = place.start + size
        if end < self.rows.shape[1]:
            pieces.append(self._nothing(self.rows.shape[1] - end))
        return torch.cat(pieces, dim=1)

    def _lay_out(self, groups: Sequence[Sequence[str]]) -> int:
        """Give every parameter its place, in the order of the groups; return the rows' width."""
        width = 0
        for group in groups:
            start = width
            for name in group:
                shape = self.parameters[0][name].shape
                self._places[name] = _Place(width, shape)
                width += math.ceil(shape.numel() / _ALIGNMENT) * _ALIGNMENT
            self.stretches.append(Stretch(slice(start, width), tuple(group)))
        return width

    def _nothing(self, size: int) -> Tensor:
        return self.rows.new_zeros(self.members, size)

    def _forward(self, parameters: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.skeleton, dict[str, Tensor](parameters), (tokens,))
        return logits
