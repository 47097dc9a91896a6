"""Models that differ in no shape as one: their parameters in one storage, and one forward pass for all of them.

Each member keeps its own `LanguageModel`, whose parameters are views of the storage, so its optimizer, its checkpoints and
its evaluation need not know of the others. The forward pass is `torch.vmap` over `functional_call`; autograd lies outside, so
a sum of the members' losses gives each member's parameters their own gradient, and no others'.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from workers.models import LanguageModel


class Stack:
    """Moves the models' parameters into one storage for each, (members, *shape), and computes with all at once.

    The models go on as they are: what is written into a model's parameter is in the storage, and the other way round.
    """

    def __init__(self, models: Sequence[LanguageModel]) -> None:
        self.members = len(models)
        self._parameters = [dict(model.named_parameters()) for model in models]
        self._stacked: dict[str, nn.Parameter] = {}
        for name in self._parameters[0]:
            own = [parameters[name] for parameters in self._parameters]
            storage = torch.stack([parameter.detach() for parameter in own])
            for parameter, view in zip(own, storage.unbind(), strict=True):
                parameter.data = view
            self._stacked[name] = nn.Parameter(storage)
        self._skeleton: nn.Module = copy.deepcopy(models[0])  # only its code is used
        self._skeleton.train()
        self._together = torch.vmap(self._forward)
        self._alike = torch.vmap(self._forward, in_dims=(0, None))

    @property
    def storages(self) -> nn.ParameterList:
        """What is learnt: all members' parameters of one name in each."""
        return nn.ParameterList(self._stacked.values())

    def feeding_channels(self) -> frozenset[int]:
        """Return the ids of storages of weights whose products feed a convolution or a scan."""
        names = ("mixer.in_proj.weight", "dt_weight")
        return frozenset(id(storage) for name, storage in self._stacked.items() if name.endswith(names))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (members, batch, seqlen, vocab_size) for int64 tokens (members, batch, seqlen), or the same for all."""
        with warnings.catch_warnings():
            # attention on a CPU has no rule of its own and is done member by member, at no loss
            warnings.filterwarnings("ignore", "There is a performance drop because we have not yet implemented")
            logits: Tensor = (self._together if tokens.dim() == 3 else self._alike)(self._stacked, tokens)
        return logits

    def zero_gradients(self) -> None:
        """Forget the gradients."""
        for storage in self._stacked.values():
            storage.grad = None

    def hand_out_gradients(self) -> list[list[Tensor]]:
        """Let each member's parameters have their part of the gradients, as views; return these, member by member."""
        handed: list[list[Tensor]] = [[] for _ in self._parameters]
        for name, storage in self._stacked.items():
            if storage.grad is None:
                for parameters in self._parameters:
                    parameters[name].grad = None
                continue
            for parameters, own, gradient in zip(self._parameters, handed, storage.grad.unbind(), strict=True):
                parameters[name].grad = gradient
                own.append(gradient)
        return handed

    def _forward(self, parameters: dict[str, nn.Parameter], tokens: Tensor) -> Tensor:
        logits: Tensor = functional_call(self._skeleton, dict[str, Tensor](parameters), (tokens,))
        return logits
