"""The H3 block: two multiplications around a shift and a sequence layer.

    q, k, v = Wq u, Wk u, Wv u;   out = Wo (inner(shift(k) * v) * q)

Source: Fu et al. 2023 (arXiv 2212.14052), Algorithm 1 with head dimension 1, as in HazyResearch/safari (`h3.py`). The
shift is an SSM whose transition moves its states along, that is, a convolution over the last `h3_shift_state`
positions with weights C, and its skip term; or a short convolution, as the paper says H3's shift may be read. With
`conv-qkv` all three projections are convolved, which is Hyena's block. S6 as the inner layer takes dt, B and C from
what it is fed, shift(k) * v: the paper does not say how it is wired.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.causal_conv1d import causal_conv1d, causal_conv1d_update
from workers.models.mamba import plain_implementation
from workers.models.registry import LayerState, Mixer, build_inner, register_mixer
from workers.specs import ModelSpec


@register_mixer("h3")
class H3Mixer(Mixer):
    """H3 and Hyena around any inner layer of `d_model` channels. Projections have biases, as published, unless `h3_bias` is off."""

    no_weight_decay = ("shift_skip",)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.d_model = spec.d_model
        self.implementation = plain_implementation(spec)
        self.all_shift = spec.h3_shift == "conv-qkv"
        is_ssm = spec.h3_shift == "ssm"
        width, channels = spec.h3_shift_state if is_ssm else spec.d_conv, self.d_model * (3 if self.all_shift else 1)
        self.in_proj = nn.Linear(spec.d_model, 3 * spec.d_model, bias=spec.h3_bias)
        # Kaiming's uniform bound with a = sqrt(5), torch's own for a convolution of one channel
        self.shift_weight = nn.Parameter(torch.empty(channels, width).uniform_(-(width**-0.5), width**-0.5))
        self.shift_skip = nn.Parameter(torch.randn(channels)) if is_ssm else None
        self.shift_bias = None if is_ssm else nn.Parameter(torch.empty(channels).uniform_(-(width**-0.5), width**-0.5))
        self.inner = build_inner(spec.model_copy(update={"expand": 1}))
        self.out_proj = nn.Linear(spec.d_model, spec.d_model, bias=spec.h3_bias)
        if spec.h3_bias:
            nn.init.zeros_(self.in_proj.bias)
            nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, state: LayerState | None = None, position: int = 0) -> Tensor:  # noqa: ARG002
        """Map (batch, seqlen, d_model) to the same shape; see `Mixer`."""
        still, moving = self._project(x)
        shifted = causal_conv1d(
            moving,
            self.taps(),
            self.shift_bias,
            initial_state=None if state is None else state["shift"].to(moving.dtype),
            implementation=self.implementation,
        )
        if state is not None:
            state["shift"] = shifted.final_state
        query, fed = self._first_product(still, shifted.y)
        out: Tensor = self.out_proj(self.inner(fed, None, state) * query)
        return out

    def step(self, x: Tensor, state: LayerState, position: int) -> Tensor:  # noqa: ARG002
        """Map (batch, d_model) to the same shape and advance the state."""
        still, moving = self._project(x)
        if state["shift"].dtype != moving.dtype:  # allocated before autocast was known
            state["shift"] = state["shift"].to(moving.dtype)
        shifted = causal_conv1d_update(
            state["shift"], moving, self.taps(), self.shift_bias, implementation=self.implementation
        )
        query, fed = self._first_product(still, shifted)
        out: Tensor = self.out_proj(self.inner.step(fed, None, state) * query)
        return out

    def allocate_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        """Return zeros: `shift` (batch, width - 1, channels) and what the inner layer keeps."""
        state = self.inner.allocate_state(batch, device)
        channels, width = self.shift_weight.shape
        state["shift"] = torch.zeros(batch, width - 1, channels, device=device, dtype=dtype)
        return state

    def taps(self) -> Tensor:
        """Return the shift's filter (channels, width), its last column for the current position, the skip added."""
        if self.shift_skip is None:
            return self.shift_weight
        return torch.cat((self.shift_weight[:, :-1], self.shift_weight[:, -1:] + self.shift_skip[:, None]), dim=1)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the shift leaves alone, q and v or nothing, and what it takes, k or all."""
        projected: Tensor = self.in_proj(x)
        split = 0 if self.all_shift else 2 * self.d_model
        return projected[..., :split], projected[..., split:].contiguous()

    def _first_product(self, still: Tensor, shifted: Tensor) -> tuple[Tensor, Tensor]:
        query, value, key = torch.cat((still, shifted), dim=-1).chunk(3, dim=-1)
        return query, key * value
