"""Causal multi-head self-attention, the baseline mixer.

Projections have biases, as in the paper's baselines: their printed 137K parameters of the induction heads models
(arXiv 2312.00752, Table 11) come out so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.errors import SpecError
from workers.models.registry import LayerState, Mixer, register_mixer
from workers.specs import ModelSpec

_INITIAL_CAPACITY = 64  # positions of a fresh key-value cache; it doubles when full
_BASE = 10000.0


@register_mixer("attention")
class AttentionMixer(Mixer):
    """Softmax attention over the positions up to each, with rotary embeddings where `spec.positions` is "rope".

    The state holds keys and values, (batch, n_heads, capacity, headdim); it grows with the sequence.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.n_heads, self.headdim = spec.n_heads, spec.d_model // spec.n_heads
        self.rope = spec.positions == "rope"
        if self.rope and self.headdim % 2:
            raise SpecError(
                f"model.positions 'rope' turns pairs of numbers: d_model / n_heads must be even, got {self.headdim}. "
                "Change model.d_model or model.n_heads, or take 'sinusoidal' or 'none'."
            )
        self.in_proj = nn.Linear(spec.d_model, 3 * spec.d_model)
        self.out_proj = nn.Linear(spec.d_model, spec.d_model)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, state: LayerState | None = None, position: int = 0) -> Tensor:
        """Map (batch, seqlen, d_model) to the same shape; see `Mixer`."""
        seqlen = x.shape[1]
        query, key, value = self.in_proj(x).unflatten(-1, (3, self.n_heads, self.headdim)).permute(2, 0, 3, 1, 4)
        if self.rope:
            turn = rotations(position, seqlen, self.headdim, x.device)
            query, key = rotate(query, turn), rotate(key, turn)
        mask = None
        if state is not None:
            key, value = self._remember(state, key, value, position)
            mask = _continuing_mask(seqlen, position, x.device)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(-2))
        return out

    def step(self, x: Tensor, state: LayerState, position: int) -> Tensor:
        """Map (batch, d_model) to the same shape and advance the cache."""
        return self.forward(x[:, None], state, position)[:, 0]

    def allocate_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        """Return an empty cache with room for 64 positions."""
        shape = (batch, self.n_heads, _INITIAL_CAPACITY, self.headdim)
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("key", "value")}

    def _remember(self, state: LayerState, key: Tensor, value: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Write new keys and values behind the `position` old ones and return all of them."""
        end = position + key.shape[2]
        for name, new in (("key", key), ("value", value)):
            cache = state[name]
            if cache.dtype != new.dtype:  # allocated before autocast was known
                cache = cache.to(new.dtype)
            if new.requires_grad:  # a buffer written in place would spoil earlier steps' gradients
                cache = torch.cat((cache[:, :, :position], new), dim=2)
            else:
                if end > cache.shape[2]:
                    capacity = max(end, 2 * cache.shape[2])
                    cache = F.pad(cache[:, :, :position], (0, 0, 0, capacity - position))
                cache[:, :, position:end] = new
            state[name] = cache
        return state["key"][:, :, :end], state["value"][:, :, :end]


def _continuing_mask(seqlen: int, position: int, device: torch.device) -> Tensor:
    """Return bool (seqlen, position + seqlen), True where a query may look."""
    places = torch.arange(position + seqlen, device=device)
    return places <= places[position:, None]


def rotations(position: int, seqlen: int, headdim: int, device: torch.device) -> Tensor:
    """Return the rotary embedding's angles, (seqlen, headdim / 2) float64: exact at any position in practice."""
    places = torch.arange(position, position + seqlen, device=device, dtype=torch.float64)
    pairs = torch.arange(headdim // 2, device=device, dtype=torch.float64)
    return places[:, None] * torch.exp(pairs * (-2 * math.log(_BASE) / headdim))


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + headdim / 2]) by the angles, in the dtype of x."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def sinusoids(position: int, seqlen: int, d_model: int, device: torch.device) -> Tensor:
    """Return the sinusoidal position embedding of Vaswani et al. 2017, (seqlen, d_model) float64: sines, then cosines."""
    angles = rotations(position, seqlen, d_model + d_model % 2, device)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :d_model]
