"""The block without a gate: the sequence layer, a GELU and a projection.

    out = W gelu(inner(u))

The paper's Table 1 has rows "No gate" and does not define them. This is the S4 block (Gu et al. 2022, arXiv
2111.00396; state-spaces/s4) without its GLU, which would be a gate: the layer over d_model channels with its skip term,
GELU, Linear. The other reading, the Mamba block without its z branch, is `mixer = "mamba"` with `gate = false`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.models.registry import LayerState, Mixer, build_inner, register_mixer
from workers.specs import ModelSpec


@register_mixer("no-gate")
class NoGateMixer(Mixer):
    """An inner layer of `d_model` channels, GELU, and a projection without bias."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.inner = build_inner(spec.model_copy(update={"expand": 1}))
        self.out_proj = nn.Linear(spec.d_model, spec.d_model, bias=False)

    def forward(self, x: Tensor, state: LayerState | None = None, position: int = 0) -> Tensor:  # noqa: ARG002
        """Map (batch, seqlen, d_model) to the same shape; see `Mixer`."""
        out: Tensor = self.out_proj(F.gelu(self.inner(x, None, state)))
        return out

    def step(self, x: Tensor, state: LayerState, position: int) -> Tensor:  # noqa: ARG002
        """Map (batch, d_model) to the same shape and advance the state."""
        out: Tensor = self.out_proj(F.gelu(self.inner.step(x, None, state)))
        return out

    def allocate_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> LayerState:  # noqa: ARG002
        """Return what the inner layer keeps."""
        return self.inner.allocate_state(batch, device)
