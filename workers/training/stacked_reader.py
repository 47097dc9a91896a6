"""The models of an ensemble as one reader of held-out sequences: products and layouts are those of a training step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from kernels import stacked_products as small
from workers.models import LanguageModel
from workers.models.lm import ModelState
from workers.training.precision import Placement
from workers.training.readers import States
from workers.training.stacked import Stack, member_by_member
from workers.training.stacked_projections import StackedProjections, TakenOver


class StackReader:
    """Models whose parameters a stack holds. They read the same tokens."""

    def __init__(self, stack: Stack, model: LanguageModel, placement: Placement) -> None:
        self.members: tuple[int, ...] = (stack.members,)
        self.spec, self.vocab_size, self.placement = model.spec, model.vocab_size, placement
        self._stack, self._model = stack, model
        self._projections = StackedProjections(stack, placement.device, None)
        self._side_by_side = stack.feeding_channels()
        self._skeleton = _Features(stack.skeleton)
        self._whole = torch.vmap(self._features, in_dims=(0, None))
        self._in_pieces = torch.vmap(self._features, in_dims=(0, None, 0))
        self._remembering = _Remembering(stack.skeleton)
        self._past = torch.vmap(self._remembered, in_dims=(0, None, 0))

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Hold while sequences are read. Members have no dropout, so there is no mode to change."""
        with torch.no_grad(), self.placement.autocast(), self._projections.step():
            yield

    def begin(self, rows: int) -> States:
        """Return the states before the first token, (members, rows, ...) each."""
        own = self._model.allocate_state(rows, self.placement.device).layers
        return [
            {name: values.expand(*self.members, *values.shape).clone() for name, values in one.items()} for one in own
        ]

    def features(self, tokens: Tensor, states: States | None) -> tuple[Tensor, States | None]:
        """Return features (members, rows, positions, d_model) and the states behind them."""
        parameters = self._projections.in_one_piece(self._stack.by_name)
        with _Reading(self._projections, self._side_by_side), member_by_member():
            if states is None:
                features, _ = self._whole(parameters, tokens)
                return features, None
            features, behind = self._in_pieces(parameters, tokens, states)
        return features, behind

    def advance(self, tokens: Tensor, states: States) -> States:
        """Return the states behind tokens."""
        parameters = self._projections.in_one_piece(self._stack.by_name)
        with _Reading(self._projections, self._side_by_side), member_by_member():
            behind: States = self._past(parameters, tokens, states)
        return behind

    def logits(self, features: Tensor) -> Tensor:
        """Return the heads' logits (members, rows, positions, vocab_size)."""
        weight = self._stack.head
        return torch.bmm(features.flatten(1, 2), weight.transpose(1, 2)).view(*features.shape[:-1], -1)

    def _features(
        self, parameters: Mapping[str, Tensor], tokens: Tensor, states: States | None = None
    ) -> tuple[Tensor, States]:
        found: tuple[Tensor, States] = functional_call(self._skeleton, _inside(parameters), (tokens, states))
        return found

    def _remembered(self, parameters: Mapping[str, Tensor], tokens: Tensor, states: States) -> States:
        behind: States = functional_call(self._remembering, _inside(parameters), (tokens, states))
        return behind


def _inside(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name a model's parameters as those of a module that holds it as `model`."""
    return {f"model.{name}": values for name, values in parameters.items()}


class _Features(nn.Module):
    """What `functional_call` calls for a model's features, and the states behind them."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, states: States | None) -> tuple[Tensor, States]:
        if states is None:
            return self.model.features(tokens), []
        state = ModelState([dict(layer) for layer in states])
        return self.model.features(tokens, state), state.layers


class _Remembering(nn.Module):
    """What `functional_call` calls for the states alone."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, states: States) -> States:
        state = ModelState([dict(layer) for layer in states])
        self.model.advance(tokens, state)
        return state.layers


class _Reading(TakenOver):
    """As in a training step, but that all members look the same tokens up, and no gradient will be wanted."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.embedding:
            return _LookUp.apply(*args[:2])  # type: ignore[no-untyped-call]
        return super().__torch_function__(func, types, args, kwargs)


class _LookUp(torch.autograd.Function):
    """`F.embedding` of shared tokens, as one look-up in all members' rows."""

    @staticmethod
    def forward(tokens: Tensor, weight: Tensor) -> Tensor:
        return F.embedding(tokens, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: there is no backward pass."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], tokens: Tensor, weight: Tensor) -> tuple[Tensor, int]:
        """Look up once, the members' rows below each other."""
        if in_dims[0] is not None:
            raise NotImplementedError("the members of an ensemble read the same held-out tokens")
        members, vocab_size = info.batch_size, weight.shape[1]
        if small.serves_tokens(weight):
            named = tokens.reshape(1, -1).expand(members, -1)
            return small.embed(named, weight).view(members, *tokens.shape, -1), 0
        offsets = torch.arange(0, members * vocab_size, vocab_size, device=tokens.device)
        return F.embedding(tokens + offsets.view(-1, *(1 for _ in tokens.shape)), weight.flatten(0, 1)), 0
