"""The language model: embedding, residual blocks, final norm, head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.models.attention import sinusoids
from workers.models.block import Block, build_norm
from workers.models.initialization import EMBEDDING_STD, rescale_
from workers.models.registry import LayerState, OpenMixer
from workers.models.seam import across, joins
from workers.specs import ModelSpec


@dataclass
class ModelState:
    """What a model remembers of `position` tokens, for each layer. `forward` and `step` advance it."""

    layers: list[LayerState]
    position: int = 0

    def detach(self) -> ModelState:
        """Return a state that holds the same memory without its gradients."""
        layers = [{name: tensor.detach() for name, tensor in layer.items()} for layer in self.layers]
        return ModelState(layers, self.position)


Through = Callable[[Block, Tensor, Tensor | None, LayerState | None, int], tuple[Tensor, Tensor]]
"""What calls a block in a forward pass, with the block and what it maps."""


class LanguageModel(nn.Module):
    """Predicts the next token. The residual stream is fp32, also under autocast; `.double()` makes everything fp64.

    `forward` and `step` compute the same function; a state passes between them freely. While `through` is set, it calls the
    blocks of a forward pass: whoever trains may let their activations be computed again.
    """

    through: Through | None = None

    def __init__(self, spec: ModelSpec, vocab_size: int) -> None:
        super().__init__()
        self.spec, self.vocab_size = spec, vocab_size
        self.embedding = nn.Embedding(vocab_size, spec.d_model)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        self.blocks = nn.ModuleList(Block(layer) for layer in spec.layers())
        self.norm = build_norm(spec)
        self.head = nn.Linear(spec.d_model, vocab_size, bias=False)
        if spec.tie_embeddings:
            self.head.weight = self.embedding.weight
        attends = any(layer.mixer == "attention" for layer in spec.layers())
        self._sinusoidal = attends and spec.positions == "sinusoidal"
        self.positions = None
        if attends and spec.positions == "learned":
            self.positions = nn.Embedding(spec.max_positions, spec.d_model)
            nn.init.normal_(self.positions.weight, std=EMBEDDING_STD)
        self._rescale_residuals()

    def forward(self, tokens: Tensor, states: ModelState | None = None) -> Tensor:
        """Return logits (batch, seqlen, vocab_size) for int64 tokens (batch, seqlen).

        With `states` the tokens continue the sequence that these have seen, and `states` is advanced past them: a
        long sequence runs in pieces, at the memory of one piece (attention's cache grows).
        """
        if mixers := self._open_mixers(tokens):
            rows, own, stream = self._across_seams(tokens, states, mixers)
            logits, _ = across(rows, own, stream, self.norm, self.head.weight, (self.vocab_size,))
            return logits
        return F.linear(self.features(tokens, states), self.head.weight)

    def features(self, tokens: Tensor, states: ModelState | None = None) -> Tensor:
        """Return what the head maps to logits, (batch, seqlen, d_model); else as `forward`."""
        residual: Tensor | None
        if mixers := self._open_mixers(tokens):
            rows, own, residual = self._across_seams(tokens, states, mixers)
            return self._normed(F.linear(rows, own), residual)
        added, residual = self._through_blocks(tokens, states, len(self.blocks))
        if states is not None:
            states.position += tokens.shape[1]
        return self._normed(added, residual)

    def advance(self, tokens: Tensor, states: ModelState) -> None:
        """Advance the states past the tokens as `features` does, without what nothing but the features is made of."""
        if mixers := self._open_mixers(tokens):
            self._across_seams(tokens, states, mixers)
            return
        last = len(self.blocks) - 1
        added, residual = self._through_blocks(tokens, states, last)
        cast(Block, self.blocks[last]).advance(added, residual, states.layers[last], states.position)
        states.position += tokens.shape[1]

    def step(self, tokens: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Return logits (batch, vocab_size) for one int64 token each, (batch,), and the state, advanced in place."""
        residual: Tensor | None = None
        added = self._embed(tokens[:, None], state.position)[:, 0]
        for block, layer in zip(self._blocks(), state.layers, strict=True):
            added, residual = block.step(added, residual, layer, state.position)
        state.position += 1
        return F.linear(self.norm(added, residual)[0], self.head.weight), state

    def allocate_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ModelState:
        """Return the state before the first token, on the model's device unless another is named.

        `dtype` is that of convolution windows and attention's cache (by default the parameters'; states follow the
        activations when they differ). The recurrent states of S6 and S4D are fp32 or fp64 in any case.
        """
        weight = self.embedding.weight
        place = weight.device if device is None else torch.device(device)
        kept = dtype or weight.dtype
        return ModelState([block.mixer.allocate_state(batch, place, kept) for block in self._blocks()])

    def _through_blocks(self, tokens: Tensor, states: ModelState | None, count: int) -> tuple[Tensor, Tensor | None]:
        """Return what the first `count` blocks make of tokens; their layers' states are advanced, the position is not."""
        position = 0 if states is None else states.position
        added, residual = self._embed(tokens, position), None
        for index, block in enumerate(islice(self.blocks, count)):
            layer = None if states is None else states.layers[index]
            if self.through is None:
                added, residual = block(added, residual, layer, position)
            else:
                added, residual = self.through(cast(Block, block), added, residual, layer, position)
        return added, residual

    def _open_mixers(self, tokens: Tensor) -> Sequence[OpenMixer]:
        """Return the mixers where somebody takes over what lies between them, else none."""
        if self.through is not None:
            return ()
        mixers = [block.mixer for block in self._blocks() if not block.mlp and not block.dropout]
        opened = [mixer for mixer in mixers if isinstance(mixer, OpenMixer)]
        if len(opened) < len(self.blocks):
            return ()
        into = [(mixer.entry, mixer.sizes) for mixer in opened]
        into.append((self.head.weight, (self.vocab_size,)))
        return opened if joins(self.norm, into, [mixer.exit for mixer in opened], tokens.numel()) else ()

    def _across_seams(
        self, tokens: Tensor, states: ModelState | None, mixers: Sequence[OpenMixer]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go through all mixers, what lies between two as one; return what the last projection takes, its weight, the stream.

        The states are advanced.
        """
        own: Tensor | None = None
        stream: Tensor | None = None
        rows = self._embed(tokens, 0 if states is None else states.position)
        for index, (block, mixer) in enumerate(zip(self._blocks(), mixers, strict=True)):
            *parts, stream = across(rows, own, stream, block.norm, mixer.entry, mixer.sizes)
            rows, own = mixer.between(parts, None if states is None else states.layers[index]), mixer.exit
        if states is not None:
            states.position += tokens.shape[1]
        assert own is not None
        assert stream is not None
        return rows, own, stream

    def _normed(self, added: Tensor, residual: Tensor | None) -> Tensor:
        normed: Tensor = self.norm(added, residual)[0]
        return normed

    def _embed(self, tokens: Tensor, position: int) -> Tensor:
        embedded: Tensor = self.embedding(tokens)
        if self.positions is not None:
            return embedded + self._learned(position, position + tokens.shape[1])
        if not self._sinusoidal:
            return embedded
        waves = sinusoids(position, tokens.shape[1], self.spec.d_model, tokens.device)
        # Scaled to the size of the embeddings: at their own size they would drown the tokens at first.
        return embedded + (waves * (EMBEDDING_STD * 2**0.5)).to(embedded.dtype)

    def _learned(self, start: int, end: int) -> Tensor:
        assert self.positions is not None
        if end > self.spec.max_positions:
            raise ValueError(
                f"learned positions end at model.max_positions = {self.spec.max_positions}, got a sequence of {end}. "
                "Raise it, or take another model.positions."
            )
        return self.positions.weight[start:end]

    def _blocks(self) -> Iterable[Block]:
        return cast(Iterable[Block], self.blocks)  # a ModuleList does not know what it holds

    def _rescale_residuals(self) -> None:
        n_residuals = self.spec.n_layer * (2 if self.spec.mlp_ratio else 1)
        for block in self._blocks():
            for layer in (block.mixer, block.mlp):
                projection = getattr(layer, "out_proj", None)
                if isinstance(projection, nn.Linear):
                    rescale_(projection, n_residuals)


def build_model(spec: ModelSpec, vocab_size: int) -> LanguageModel:
    """Return a freshly initialised model, drawn from torch's global generator.

    Raises:
        SpecError: an unknown mixer or inner layer, or one that cannot be built so.
    """
    return LanguageModel(spec, vocab_size)
