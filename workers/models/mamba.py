"""The Mamba-1 block: projection, causal convolution, sequence layer, gate, projection.

Source: Gu & Dao 2023 (arXiv 2312.00752), section 3.4 and Figure 3; released as state-spaces/mamba `mamba_simple.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.causal_conv1d import causal_conv1d, causal_conv1d_update
from workers.models.registry import LayerState, OpenMixer, build_inner, register_mixer
from workers.models.split import project
from workers.specs import ModelSpec

Plain = Literal["auto", "reference", "torch", "triton"]


def plain_implementation(spec: ModelSpec) -> Plain:
    """Return the name for ops that have nothing to chunk: their fast plain form is called `torch`."""
    return "torch" if spec.implementation == "chunked" else spec.implementation


@register_mixer("mamba")
class MambaMixer(OpenMixer):
    """`out_proj(inner(silu(conv(x))) * silu(z))` with x, z = `in_proj(u)`.

    `d_conv` 0 leaves the convolution out (the SiLU stays), `gate` False the z branch. Projections have no bias.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.d_inner = spec.expand * spec.d_model
        self.gate = spec.gate
        self.implementation = plain_implementation(spec)
        self.in_proj = nn.Linear(spec.d_model, self.d_inner * (2 if spec.gate else 1), bias=False)
        self.conv_weight = self.conv_bias = None
        if spec.d_conv:
            bound = 1 / math.sqrt(spec.d_conv)  # torch's own initialisation of a depthwise convolution
            self.conv_weight = nn.Parameter(torch.empty(self.d_inner, spec.d_conv).uniform_(-bound, bound))
            self.conv_bias = nn.Parameter(torch.empty(self.d_inner).uniform_(-bound, bound))
        self.inner = build_inner(spec)
        self.out_proj = nn.Linear(self.d_inner, spec.d_model, bias=False)

    def forward(self, x: Tensor, state: LayerState | None = None, position: int = 0) -> Tensor:  # noqa: ARG002
        """Map (batch, seqlen, d_model) to the same shape; see `Mixer`."""
        out: Tensor = self.out_proj(self._mix(x, state))
        return out

    @property
    def entry(self) -> Tensor:
        """See `OpenMixer`."""
        return self.in_proj.weight

    @property
    def sizes(self) -> tuple[int, ...]:
        """See `OpenMixer`."""
        return (self.d_inner, self.d_inner) if self.gate else (self.d_inner,)

    @property
    def exit(self) -> Tensor:
        """See `OpenMixer`."""
        return self.out_proj.weight

    def between(self, parts: Sequence[Tensor], state: LayerState | None) -> Tensor:
        """See `OpenMixer`."""
        return self._within(parts[0], parts[1] if self.gate else None, state)

    def advance(self, x: Tensor, state: LayerState, position: int) -> None:  # noqa: ARG002
        """Advance the state without the last projection. The gate stays: scans without one are served by slower kernels."""
        self._mix(x, state)

    def step(self, x: Tensor, state: LayerState, position: int) -> Tensor:  # noqa: ARG002
        """Map (batch, d_model) to the same shape and advance the state."""
        x, z = self._project(x)
        if self.conv_weight is None:
            x = F.silu(x)
        else:
            if state["conv"].dtype != x.dtype:  # allocated before autocast was known
                state["conv"] = state["conv"].to(x.dtype)
            x = causal_conv1d_update(
                state["conv"],
                x,
                self.conv_weight,
                self.conv_bias,
                activation="silu",
                implementation=self.implementation,
            )
        out: Tensor = self.out_proj(self.inner.step(x, z, state))
        return out

    def allocate_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        """Return zeros: `conv` (batch, d_conv - 1, d_inner) and what the inner layer keeps."""
        state = self.inner.allocate_state(batch, device)
        if self.conv_weight is not None:
            state["conv"] = torch.zeros(batch, self.conv_weight.shape[1] - 1, self.d_inner, device=device, dtype=dtype)
        return state

    def _mix(self, x: Tensor, state: LayerState | None) -> Tensor:
        """Return the gated output of the inner layer, (batch, seqlen, d_inner)."""
        return self._within(*self._project(x), state)

    def _within(self, x: Tensor, z: Tensor | None, state: LayerState | None) -> Tensor:
        if self.conv_weight is None:
            x = F.silu(x)
        else:
            convolved = causal_conv1d(
                x,
                self.conv_weight,
                self.conv_bias,
                activation="silu",
                initial_state=None if state is None else state["conv"].to(x.dtype),
                implementation=self.implementation,
            )
            x = convolved.y
            if state is not None:
                state["conv"] = convolved.final_state
        mixed: Tensor = self.inner(x, z, state)
        return mixed

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.gate:
            return self.in_proj(x), None
        x, z = project(x, self.in_proj.weight, (self.d_inner, self.d_inner))
        return x, z
