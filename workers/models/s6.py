"""S6, the selective state space layer, with a switch for each of its choices.

    h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t];   y[t] = C[t] h[t] + D x[t];   out = y * silu(z)

dt, B and C are projected from the input where selective; else they are parameters. Source: Gu & Dao 2023 (arXiv
2312.00752), Algorithm 2 and section 3.6; initial values as released (state-spaces/mamba, `mamba_simple.py`). The paper
does not say how constant B and C start: `constant_init` "s4" is as in S4, B = 1 and C standard normal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.selective_scan import selective_scan
from kernels.selective_state_update import selective_state_update
from workers.models.decay import decay_rates
from workers.models.initialization import initial_dt_bias
from workers.models.mamba import plain_implementation
from workers.models.registry import Inner, LayerState, register_inner
from workers.models.split import project, project_through
from workers.specs import ModelSpec


@register_inner("s6")
class S6(Inner):
    """The selective scan over `d_inner` channels of `d_state` states each.

    `a_init` "complex" makes A, B, C and the state complex; B and C are then kept and projected as pairs of reals and
    the output is 2 Re(C h), as if each state had its conjugate beside it. A, D and the bias of dt are never cast down.
    """

    no_weight_decay = ("A_log", "A_imag", "D", "dt_bias", "B")

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.d_inner, self.d_state = spec.expand * spec.d_model, spec.d_state
        self.implementation = spec.implementation
        self.step_implementation = plain_implementation(spec)
        self.complex = spec.a_init == "complex"
        rank = math.ceil(spec.d_model / 16) if spec.dt_rank == "auto" else spec.dt_rank
        self.dt_rank = rank if spec.selective_dt else 0
        width = self.d_state * (2 if self.complex else 1)
        self.widths = (self.dt_rank, width if spec.selective_b else 0, width if spec.selective_c else 0)
        self.x_proj = nn.Linear(self.d_inner, sum(self.widths), bias=False) if sum(self.widths) else None
        self.dt_weight = None
        if self.dt_rank:
            self.dt_weight = nn.Parameter(torch.empty(self.d_inner, self.dt_rank))
            nn.init.uniform_(self.dt_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        self.dt_bias = nn.Parameter(initial_dt_bias(self.d_inner, spec.dt_min, spec.dt_max))
        self.A_log = nn.Parameter(_initial_log_a(spec))
        self.A_imag = nn.Parameter(torch.arange(self.d_state).float().repeat(self.d_inner, 1)) if self.complex else None
        initial_b = _constant_normal if spec.constant_init == "normal" else _constant_ones
        initial_c = _constant_ones if spec.constant_init == "ones" else _constant_normal
        self.B = None if spec.selective_b else nn.Parameter(initial_b(self.d_inner, self.d_state, self.complex))
        self.C = None if spec.selective_c else nn.Parameter(initial_c(self.d_inner, self.d_state, self.complex))
        self.D = nn.Parameter(torch.ones(self.d_inner)) if spec.skip else None

    def forward(self, x: Tensor, z: Tensor | None, state: LayerState | None = None) -> Tensor:
        """Map (batch, seqlen, d_inner) to the same shape; see `Inner`."""
        x, dt, B, C = self._project(x)
        scan = selective_scan(
            x,
            dt,
            self.transition(),
            B,
            C,
            D=self.D,
            z=z,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            initial_state=None if state is None else state["ssm"],
            implementation=self.implementation,
        )
        if state is not None:
            state["ssm"] = scan.final_state
        return scan.y

    def step(self, x: Tensor, z: Tensor | None, state: LayerState) -> Tensor:
        """Map (batch, d_inner) to the same shape and advance the state in place."""
        x, dt, B, C = self._project(x)
        B = B if self.B is None else B.expand(len(x), -1, -1)  # the decode step takes constants as a group a channel
        C = C if self.C is None else C.expand(len(x), -1, -1)
        return selective_state_update(
            state["ssm"],
            x,
            dt,
            self.transition(),
            B,
            C,
            D=self.D,
            z=z,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            implementation=self.step_implementation,
        )

    def allocate_state(self, batch: int, device: torch.device) -> LayerState:
        """Return zeros `ssm` (batch, d_inner, d_state): fp32, fp64 in a float64 model, or the complex of these."""
        dtype = self.A_log.dtype.to_complex() if self.complex else self.A_log.dtype
        return {"ssm": torch.zeros(batch, self.d_inner, self.d_state, device=device, dtype=dtype)}

    def transition(self) -> Tensor:
        """Return A (d_inner, d_state), its real part negative."""
        real = decay_rates(self.A_log)
        return real if self.A_imag is None else torch.complex(real, self.A_imag)

    def step_sizes(self, x: Tensor) -> Tensor:
        """Return dt after its bias and softplus for x (batch, seqlen, d_inner): the same shape, or constant (d_inner,)."""
        return F.softplus(self._project(x)[1].to(self.dt_bias.dtype) + self.dt_bias)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x, dt before its bias and softplus, B and C: of the input where selective, else constant."""
        if self.x_proj is not None and self.dt_weight is not None:
            x, dt, *states = project_through(x, self.x_proj.weight, self.widths, self.dt_weight)
        else:
            dt = torch.zeros_like(self.dt_bias)
            _, *states = (x, x, x) if self.x_proj is None else project(x, self.x_proj.weight, self.widths)
        return x, dt, self._states(states[0], self.B), self._states(states[1], self.C)

    def _states(self, projected: Tensor, constant: Tensor | None) -> Tensor:
        values = projected if constant is None else constant
        if not self.complex:
            return values
        pairs = values.to(self.A_log.dtype).reshape(*values.shape[:-1], self.d_state, 2)
        return torch.view_as_complex(pairs.contiguous())


def _initial_log_a(spec: ModelSpec) -> Tensor:
    """Return log(-Re A), (d_inner, d_state), for each row of the paper's Table 8."""
    d_inner = spec.expand * spec.d_model
    match spec.a_init:
        case "lin":
            return torch.arange(1, spec.d_state + 1).float().log().repeat(d_inner, 1)
        case "random":
            return torch.randn(d_inner, spec.d_state)
        case "half" | "complex":
            return torch.full((d_inner, spec.d_state), math.log(0.5))


def _constant_ones(d_inner: int, d_state: int, is_complex: bool) -> Tensor:
    if not is_complex:
        return torch.ones(d_inner, d_state)
    return torch.tensor([1.0, 0.0]).repeat(d_inner, d_state)


def _constant_normal(d_inner: int, d_state: int, is_complex: bool) -> Tensor:
    if not is_complex:
        return torch.randn(d_inner, d_state)
    return torch.randn(d_inner, 2 * d_state) * math.sqrt(0.5)  # unit variance of the complex number
