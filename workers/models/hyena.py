"""Hyena's long convolution: a kernel that a small network writes, as a sequence layer.

    y[t] = sum over s <= t of k[t-s] x[s] + D x[t];   out = y * silu(z)
    k[t] = MLP(p(t)) * (exp(-|delta_d| t / (l_max - 1)) + floor),   MLP with sines: v -> sin(w * (W v + b))

p(t) is the time t / (l_max - 1) and pairs of cosine and sine, or learned numbers. delta runs from ln(0.01) / slow to
ln(0.01) / fast over the channels. Source: Poli et al. 2023 (arXiv 2302.10866), section 3.3; initial values and rates as
in HazyResearch/safari (`hyena.py`). With the mixer `h3` and its `conv-qkv` shift this is Hyena's operator of order 2;
"Mamba + Hyena" of the paper's Tables 1 and 6 is this layer in the Mamba block.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.models.fft_convolution import fft_convolution
from workers.models.registry import Inner, LayerState, register_inner
from workers.specs import ModelSpec

_FILTER_MAX_LR = 1e-3
_WINDOW_END = 0.01  # what the window has fallen to at `hyena_decay_fast` or `hyena_decay_slow` of l_max


@register_inner("hyena")
class Hyena(Inner):
    """A convolution for each of `d_inner` channels, as long as the sequence.

    Its kernel is one function of the position, whatever the length of the sequence, so pieces and steps give what the
    whole gives. There is no recurrence of fixed size: the state is the input so far, and grows. Fixed positions go on
    past `hyena_l_max`, learned ones end there. All is computed in fp32 or fp64; the filter is not decayed and learns at
    most at 1e-3, as in safari.
    """

    no_weight_decay = ("D", "frequency", "positions")

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.d_inner, self.l_max, self.emb = spec.expand * spec.d_model, spec.hyena_l_max, spec.hyena_emb
        self.max_lr = {"frequency": _FILTER_MAX_LR, "positions": spec.hyena_positions_lr}
        widths = [spec.hyena_emb, *[spec.hyena_width] * (spec.hyena_depth + 1)]
        self.filter = nn.ModuleList(_FilterLayer(*pair) for pair in pairwise(widths))
        self.filter_out = _FilterLayer(spec.hyena_width, self.d_inner, bias=False)
        self.frequency = nn.Parameter(
            torch.full((spec.hyena_width,), spec.hyena_freq)
        )  # one for all layers, as in safari
        self.positions = None
        if spec.hyena_positions == "learned":
            self.positions = nn.Parameter(self._features(self.l_max, torch.float32, None))
        self.fast, self.slow, self.floor = spec.hyena_decay_fast, spec.hyena_decay_slow, spec.hyena_decay_floor
        self.D = nn.Parameter(torch.randn(self.d_inner)) if spec.skip else None

    def forward(self, x: Tensor, z: Tensor | None, state: LayerState | None = None) -> Tensor:
        """Map (batch, seqlen, d_inner) to the same shape; see `Inner`."""
        u = x.to(self.frequency.dtype)
        with torch.autocast(x.device.type, enabled=False):
            whole = u if state is None else torch.cat((state["inputs"], u), dim=1)
            y = fft_convolution(whole, self.kernel(whole.shape[1]))[:, whole.shape[1] - u.shape[1] :]
            if state is not None:
                state["inputs"] = whole
            y = y if self.D is None else torch.addcmul(y, u, self.D)
        return y.to(x.dtype) if z is None else y.to(x.dtype) * F.silu(z)

    def step(self, x: Tensor, z: Tensor | None, state: LayerState) -> Tensor:
        """Map one position, (batch, d_inner), to the same shape and append it to the state."""
        u = x.to(self.frequency.dtype)
        with torch.autocast(x.device.type, enabled=False):
            state["inputs"] = whole = torch.cat((state["inputs"], u[:, None]), dim=1)
            y = torch.einsum("bld,dl->bd", whole, self._cached_kernel(state, whole.shape[1]).flip(1))
            y = y if self.D is None else torch.addcmul(y, u, self.D)
        return y.to(x.dtype) if z is None else y.to(x.dtype) * F.silu(z)

    def allocate_state(self, batch: int, device: torch.device) -> LayerState:
        """Return `inputs` (batch, 0, d_inner), and room for a `kernel` (d_inner, 0) that steps without gradient keep."""
        dtype = self.frequency.dtype
        return {
            "inputs": torch.zeros(batch, 0, self.d_inner, device=device, dtype=dtype),
            "kernel": torch.zeros(self.d_inner, 0, device=device, dtype=dtype),
        }

    def kernel(self, seqlen: int) -> Tensor:
        """Return the impulse response (d_inner, seqlen), without D.

        Raises:
            ValueError: learned positions do not reach so far.
        """
        if self.positions is not None and seqlen > self.l_max:
            raise ValueError(
                f"learned positions end at model.hyena_l_max = {self.l_max}, got a sequence of {seqlen}. Raise it, or take "
                "hyena_positions = 'fixed'."
            )
        dtype, device = self.frequency.dtype, self.frequency.device
        hidden = self._features(seqlen, dtype, device) if self.positions is None else self.positions[:seqlen]
        for layer in self.filter:
            hidden = torch.sin(self.frequency * layer(hidden))
        time = torch.arange(seqlen, device=device, dtype=dtype)[:, None] / (self.l_max - 1)
        slowest, fastest = (math.log(_WINDOW_END) / share for share in (self.slow, self.fast))
        deltas = torch.linspace(slowest, fastest, self.d_inner, device=device, dtype=dtype)
        response: Tensor = self.filter_out(hidden) * ((-time * deltas.abs()).exp() + self.floor)
        return response.t()

    def _features(self, seqlen: int, dtype: torch.dtype, device: torch.device | None) -> Tensor:
        """Return time and its waves, (seqlen, hyena_emb); waves in float64 first, as their argument is large."""
        pairs = (self.emb - 1) // 2
        places = torch.arange(seqlen, device=device, dtype=torch.float64)[:, None]
        frequencies = torch.linspace(1e-4, max(pairs - 1, 1e-4), pairs, device=device, dtype=torch.float64)
        angles = frequencies * places * (2 * math.pi / self.l_max)
        return torch.cat((places / (self.l_max - 1), angles.cos(), -angles.sin()), dim=1).to(dtype)

    def _cached_kernel(self, state: LayerState, seqlen: int) -> Tensor:
        if torch.is_grad_enabled():
            return self.kernel(seqlen)
        if state["kernel"].shape[1] < seqlen:
            longer = 2 * seqlen if self.positions is None else max(seqlen, min(2 * seqlen, self.l_max))
            state["kernel"] = self.kernel(longer)
        return state["kernel"][:, :seqlen]


class _FilterLayer(nn.Linear):
    """A linear layer of the filter MLP, with its own rate and without decay."""

    no_weight_decay = ("weight", "bias")
    max_lr = dict.fromkeys(("weight", "bias"), _FILTER_MAX_LR)
