"""Mixers and inner layers by name, so that a new one is a class and a decorator.

A mixer stands in a residual block; an inner layer is the sequence layer inside the Mamba mixer. Both keep what they
remember between calls in a `LayerState`, a dict of tensors that they allocate, read and write themselves.
"""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from workers.errors import SpecError
from workers.specs import ModelSpec

LayerState = dict[str, Tensor]


class Mixer(nn.Module):
    """Mixes information along the sequence. Built from `(spec)`."""

    @abstractmethod
    def forward(self, x: Tensor, state: LayerState | None = None, position: int = 0) -> Tensor:
        """Map (batch, seqlen, d_model) to the same shape, causally.

        With a state, the sequence continues what the state has seen, `position` tokens, and the state's entries are
        replaced by those after the sequence.
        """

    def advance(self, x: Tensor, state: LayerState, position: int) -> None:
        """Advance the state as `forward` does, where nothing else is wanted: a mixer may leave out what comes behind it."""
        self(x, state, position)

    @abstractmethod
    def step(self, x: Tensor, state: LayerState, position: int) -> Tensor:
        """Map one position, (batch, d_model), to the same shape and advance the state in place."""

    @abstractmethod
    def allocate_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        """Return the state before the first token. `dtype` is the one of activations."""


class OpenMixer(Mixer):
    """A mixer between two projections without biases, which can be made together with what lies next to them."""

    @property
    @abstractmethod
    def entry(self) -> Tensor:
        """The first projection's weight."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """What its result is cut into."""

    @property
    @abstractmethod
    def exit(self) -> Tensor:
        """The last projection's weight."""

    @abstractmethod
    def between(self, parts: Sequence[Tensor], state: LayerState | None) -> Tensor:
        """Map the first projection's parts to what the last one takes; the state, if any, is advanced."""


class Inner(nn.Module):
    """The sequence layer inside the Mamba mixer, over `d_inner` channels. Built from `(spec)`.

    It adds its skip term where `spec.skip` and multiplies by silu(z) where z is given.
    """

    @abstractmethod
    def forward(self, x: Tensor, z: Tensor | None, state: LayerState | None = None) -> Tensor:
        """Map (batch, seqlen, d_inner) to the same shape, causally; replace the state's entries where one is given."""

    @abstractmethod
    def step(self, x: Tensor, z: Tensor | None, state: LayerState) -> Tensor:
        """Map one position, (batch, d_inner), to the same shape and advance the state in place."""

    @abstractmethod
    def allocate_state(self, batch: int, device: torch.device) -> LayerState:
        """Return the state before the first token."""


_MixerClass = TypeVar("_MixerClass", bound=type[Mixer])
_InnerClass = TypeVar("_InnerClass", bound=type[Inner])
_mixers: dict[str, Callable[[ModelSpec], Mixer]] = {}
_inners: dict[str, Callable[[ModelSpec], Inner]] = {}


def register_mixer(name: str) -> Callable[[_MixerClass], _MixerClass]:
    """Register a mixer class under the name that `model.mixer` gives. A name can be taken once."""

    def register(cls: _MixerClass) -> _MixerClass:
        _claim(_mixers, "mixer", name)
        _mixers[name] = cls
        return cls

    return register


def register_inner(name: str) -> Callable[[_InnerClass], _InnerClass]:
    """Register an inner layer's class under the name that `model.inner` gives. A name can be taken once."""

    def register(cls: _InnerClass) -> _InnerClass:
        _claim(_inners, "inner layer", name)
        _inners[name] = cls
        return cls

    return register


def build_mixer(spec: ModelSpec) -> Mixer:
    """Return a new mixer of the kind that the spec names."""
    return _look_up(_mixers, "model.mixer", spec.mixer)(spec)


def build_inner(spec: ModelSpec) -> Inner:
    """Return a new inner layer of the kind that the spec names."""
    return _look_up(_inners, "model.inner", spec.inner)(spec)


def _claim(registry: Mapping[str, object], kind: str, name: str) -> None:
    if name in registry:
        raise ValueError(f"the {kind} name {name!r} is taken by {registry[name]!r}: choose another")


_Builder = TypeVar("_Builder")


def _look_up(registry: Mapping[str, _Builder], key: str, name: str) -> _Builder:
    if name in registry:
        return registry[name]
    close = difflib.get_close_matches(name, registry, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise SpecError(f"{key} is {name!r}, which is not registered. {hint}Known: {', '.join(sorted(registry))}.")
