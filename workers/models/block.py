"""A pre-norm residual block: norm and mixer, and norm and MLP where the spec asks for one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.rms_norm import rms_norm
from workers.models.mamba import plain_implementation
from workers.models.registry import LayerState, build_mixer
from workers.specs import ModelSpec


class RMSNorm(nn.Module):
    """Adds to the residual stream and normalises the sum. The stream is fp32 (fp64 in a float64 model)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(spec.d_model))
        self.eps = spec.norm_eps
        self.implementation = plain_implementation(spec)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the normalised sum in the dtype of x, and the sum; shapes (..., d_model)."""
        out = rms_norm(x, self.weight, residual=residual, eps=self.eps, implementation=self.implementation)
        return out.y, out.residual


class MLP(nn.Module):
    """Linear, GELU, Linear, without biases; `mlp_ratio * d_model` wide."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.in_proj = nn.Linear(spec.d_model, spec.mlp_ratio * spec.d_model, bias=False)
        self.out_proj = nn.Linear(spec.mlp_ratio * spec.d_model, spec.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d_model) to the same shape."""
        out: Tensor = self.out_proj(F.gelu(self.in_proj(x)))
        return out


class Block(nn.Module):
    """Takes and returns the pair (what the last layer adds, residual stream), so that each norm does the addition.

    Dropout is on what a mixer or an MLP adds.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.norm = RMSNorm(spec)
        self.mixer = build_mixer(spec)
        self.mlp_norm = RMSNorm(spec) if spec.mlp_ratio else None
        self.mlp = MLP(spec) if spec.mlp_ratio else None
        self.dropout = spec.dropout

    def forward(
        self, added: Tensor, residual: Tensor | None, state: LayerState | None, position: int
    ) -> tuple[Tensor, Tensor]:
        """Map (batch, seqlen, d_model) pairs; the state, if any, is advanced."""
        x, residual = self.norm(added, residual)
        return self._after_mixer(self.mixer(x, state, position), residual)

    def step(self, added: Tensor, residual: Tensor | None, state: LayerState, position: int) -> tuple[Tensor, Tensor]:
        """Map one position, (batch, d_model) pairs, and advance the state."""
        x, residual = self.norm(added, residual)
        return self._after_mixer(self.mixer.step(x, state, position), residual)

    def _after_mixer(self, added: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        added = self._drop(added)
        if self.mlp_norm is None or self.mlp is None:
            return added, residual
        x, residual = self.mlp_norm(added, residual)
        return self._drop(self.mlp(x)), residual

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
