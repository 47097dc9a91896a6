"""Who reads held-out sequences: one model, or the models of an ensemble at once (`stacked_reader`).

A model whose layers all keep a state of fixed size reads a long sequence in pieces and carries the state along. Here states are
lists of tensors by name, one a layer, that go in and come out: so they may be the members' of an ensemble, and what is done to a
piece may be recorded into a CUDA graph (`pieces`). No such model asks where in the sequence a piece begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from kernels import stacked_products as small
from workers.models import LanguageModel
from workers.models.lm import ModelState
from workers.specs import ModelSpec
from workers.training.precision import Placement

States = list[dict[str, Tensor]]
"""What a model remembers, layer by layer."""


class Reader(Protocol):
    """One model, or with `members` (K,) K of them that read the same tokens. All is called inside `reading()`."""

    members: tuple[int, ...]
    spec: ModelSpec
    vocab_size: int
    placement: Placement

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Hold while sequences are read: without gradients, in eval mode, in the run's precision."""

    def begin(self, rows: int) -> States:
        """Return what is remembered before the first token of so many sequences."""

    def features(self, tokens: Tensor, states: States | None) -> tuple[Tensor, States | None]:
        """Return what the head maps to logits, (*members, rows, positions, d_model), for tokens (rows, positions), and the
        states behind them; None where none were given: the tokens are then whole sequences.
        """

    def advance(self, tokens: Tensor, states: States) -> States:
        """Return the states behind tokens, as `features` does, where these are not wanted: a good part of the work is theirs."""

    def logits(self, features: Tensor) -> Tensor:
        """Return the head's logits (..., vocab_size)."""


class ModelReader:
    """One model. It is put back into the mode it was in."""

    members: tuple[int, ...] = ()

    def __init__(self, model: LanguageModel, placement: Placement) -> None:
        self._model, self.placement = model, placement
        self.spec, self.vocab_size = model.spec, model.vocab_size

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Hold while sequences are read."""
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad(), self.placement.autocast(), _casts_in_place(), _LookedUp():
                yield
        finally:
            self._model.train(was_training)

    def begin(self, rows: int) -> States:
        """Return the state before the first token."""
        return self._model.allocate_state(rows, self.placement.device).layers

    def features(self, tokens: Tensor, states: States | None) -> tuple[Tensor, States | None]:
        """Return features (rows, positions, d_model) and the states behind them."""
        if states is None:
            return self._model.features(tokens), None
        state = ModelState([dict(layer) for layer in states])
        return self._model.features(tokens, state), state.layers

    def advance(self, tokens: Tensor, states: States) -> States:
        """Return the states behind tokens."""
        state = ModelState([dict(layer) for layer in states])
        self._model.advance(tokens, state)
        return state.layers

    def logits(self, features: Tensor) -> Tensor:
        """Return the head's logits."""
        return F.linear(features, self._model.head.weight)


@contextlib.contextmanager
def _casts_in_place() -> Iterator[None]:
    """Let autocast cast weights where they are used: what it keeps of them dies with its context, which a graph outlives."""
    keeps = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(keeps)


class _LookedUp(TorchFunctionMode):
    """Few tokens are looked up by the kernel that ensembles have: PyTorch's took 632 us of 2^20 tokens' 6,000 on an H100."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.embedding and small.serves_tokens(args[1][None]):
            tokens, weight = args[:2]
            return small.embed(tokens.reshape(1, -1), weight[None]).view(*tokens.shape, -1)
        return func(*args, **(kwargs or {}))
