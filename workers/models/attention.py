"""Causal multi-head self-attention, the baseline mixer.

Projections have biases, as in the paper's baselines: their printed 137K parameters of the induction heads models
(arXiv 2312.00752, Table 11) come out so.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.errors import SpecError
from workers.models.registry import LayerState, Mixer, register_mixer
from workers.models.strict import strictly
from workers.specs import ModelSpec

_INITIAL_CAPACITY = 64  # positions of a fresh key-value cache; it doubles when full
_BASE = 10000.0
_XPOS_SPAN = 512.0  # positions over which a pair decays by its own factor
_XPOS_GAMMA = 0.4
_XPOS_QUERIES = 8192  # so many at a time: the scales are relative to the first, and stay below 1e9


@register_mixer("attention")
class AttentionMixer(Mixer):
    """Softmax attention over the positions up to each, with rotary embeddings where `spec.positions` is "rope".

    "xpos" scales the rotated query at n by zeta^(n / 512) and the key at m by zeta^(-m / 512), so that a pair's part of
    a score decays with the distance, zeta_i = (i / (headdim / 2) + 0.4) / 1.4. Source: Sun et al. 2022
    (arXiv 2212.10554). The absolute scales overflow at about 2^16 positions; here they are taken relative to the first
    of up to 8192 queries, which changes no score, and a factor too small for its format is zero.

    The state holds keys and values, (batch, n_heads, capacity, headdim); it grows with the sequence.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.n_heads, self.headdim = spec.n_heads, spec.d_model // spec.n_heads
        self.rope, self.xpos = spec.positions in ("rope", "xpos"), spec.positions == "xpos"
        if self.rope and self.headdim % 2:
            raise SpecError(
                f"model.positions {spec.positions!r} turns pairs of numbers: d_model / n_heads must be even, got {self.headdim}. "
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
        if state is not None:
            key, value = self._remember(state, key, value, position)
        attend = _attend_decaying if self.xpos else _attend
        mixed = attend(query, key, value, 0 if state is None else position)
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


def _attend(query: Tensor, key: Tensor, value: Tensor, earlier: int) -> Tensor:
    """Attend causally; the first query is at place `earlier` of the keys."""
    mask = _continuing_mask(query.shape[2], earlier, query.device) if earlier else None
    attend = partial(F.scaled_dot_product_attention, attn_mask=mask, is_causal=mask is None)
    return strictly(attend, query, key, value)


def _attend_decaying(query: Tensor, key: Tensor, value: Tensor, earlier: int) -> Tensor:
    """Attend causally with xPos's scales, some thousand queries at a time."""
    outputs = []
    for start in range(0, query.shape[2], _XPOS_QUERIES):
        some = query[:, :, start : start + _XPOS_QUERIES]
        first, end = earlier + start, earlier + start + some.shape[2]
        scale = xpos_scales(-first, end - first, query.shape[-1], query.device)  # of every key up to the last query
        scaled_query = some * scale[first:].to(query.dtype)
        scaled_key = key[:, :, :end] * scale.reciprocal().to(key.dtype)
        outputs.append(_attend(scaled_query, scaled_key, value[:, :, :end], first))
    return torch.cat(outputs, dim=2)


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


def xpos_scales(start: int, end: int, headdim: int, device: torch.device) -> Tensor:
    """Return zeta^(n / 512) for n from `start` to before `end`, (end - start, headdim) float64, both halves alike."""
    places = torch.arange(start, end, device=device, dtype=torch.float64)
    pairs = torch.arange(headdim // 2, device=device, dtype=torch.float64)
    zeta = (pairs / (headdim / 2) + _XPOS_GAMMA) / (1 + _XPOS_GAMMA)
    return torch.exp(places[:, None] / _XPOS_SPAN * zeta.log()).repeat(1, 2)


def sinusoids(position: int, seqlen: int, d_model: int, device: torch.device) -> Tensor:
    """Return the sinusoidal position embedding of Vaswani et al. 2017, (seqlen, d_model) float64: sines, then cosines."""
    angles = rotations(position, seqlen, d_model + d_model % 2, device)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :d_model]
