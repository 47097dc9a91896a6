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


class LayerNorm(nn.Module):
    """As `RMSNorm`, with the mean taken off and a bias: the norm of the plain transformer."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(spec.d_model))
        self.bias = nn.Parameter(torch.zeros(spec.d_model))
        self.eps = spec.norm_eps

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the normalised sum in the dtype of x, and the sum; shapes (..., d_model)."""
        stream = x.to(self.weight.dtype) if residual is None else x + residual
        with torch.autocast(x.device.type, enabled=False):
            y = F.layer_norm(stream, self.weight.shape, self.weight, self.bias, self.eps)
        return y.to(x.dtype), stream


def build_norm(spec: ModelSpec) -> RMSNorm | LayerNorm:
    """Return a new norm of the kind that the spec names."""
    return LayerNorm(spec) if spec.norm == "layer" else RMSNorm(spec)


def mlp_width(spec: ModelSpec) -> int:
    """Return the MLP's width: `mlp_ratio * d_model`, and for SwiGLU two thirds of it, rounded up to a multiple of 8."""
    plain = spec.mlp_ratio * spec.d_model
    return plain if spec.mlp == "gelu" else -(-2 * plain // 24) * 8


class MLP(nn.Module):
    """Without biases: W gelu(V x), or W (silu(U x) * V x) where `spec.mlp` is "swiglu".

    Source of SwiGLU and its width: Shazeer 2020 (arXiv 2002.05202), Touvron et al. 2023 (arXiv 2302.13971).
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = mlp_width(spec)
        self.gated = spec.mlp == "swiglu"
        self.in_proj = nn.Linear(spec.d_model, width * (2 if self.gated else 1), bias=False)
        self.out_proj = nn.Linear(width, spec.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d_model) to the same shape."""
        hidden: Tensor = self.in_proj(x)
        if self.gated:
            gate, value = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * value
        else:
            hidden = F.gelu(hidden)
        out: Tensor = self.out_proj(hidden)
        return out


class Block(nn.Module):
    """Takes and returns the pair (what the last layer adds, residual stream), so that each norm does the addition.

    Dropout is on what a mixer or an MLP adds.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.norm = build_norm(spec)
        self.mixer = build_mixer(spec)
        self.mlp_norm = build_norm(spec) if spec.mlp_ratio else None
        self.mlp = MLP(spec) if spec.mlp_ratio else None
        self.dropout = spec.dropout

    def forward(
        self, added: Tensor, residual: Tensor | None, state: LayerState | None, position: int
    ) -> tuple[Tensor, Tensor]:
        """Map (batch, seqlen, d_model) pairs; the state, if any, is advanced."""
        x, residual = self.norm(added, residual)
        return self._after_mixer(self.mixer(x, state, position), residual)

    def advance(self, added: Tensor, residual: Tensor | None, state: LayerState, position: int) -> None:
        """Advance the state as `forward` does, where nothing else is wanted."""
        self.mixer.advance(self.norm(added, residual)[0], state, position)

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
