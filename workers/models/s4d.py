"""S4D, the diagonal time-invariant state space layer: the baseline that selection is measured against.

    h[t] = Abar h[t-1] + Bbar x[t];   y[t] = 2 Re(C h[t]) + D x[t];   out = y * silu(z)
    Abar = exp(dt A),  Bbar = (exp(dt A) - 1) / A                     (zero-order hold with B = 1)

States are conjugate pairs of which one is kept, `d_state / 2` a channel; the real form keeps all `d_state` and has
neither the 2 nor the Re. As nothing depends on the input, the layer is also a convolution with the kernel
K[l] = 2 Re(sum C Abar^l Bbar), done by FFT. Source: Gu et al. 2022 (arXiv 2206.11893); initial values as in the S4
repository (`S4DKernel`, `dplr.py`). `s4d_init` "lin" and "inv" approximate in closed form the eigenvalues that "legs" takes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.models.fft_convolution import fft_convolution
from workers.models.initialization import log_uniform
from workers.models.registry import Inner, LayerState, register_inner
from workers.specs import ModelSpec

_SSM_MAX_LR = 1e-3


@register_inner("s4d")
class S4D(Inner):
    """A linear time-invariant system for each of `d_inner` channels.

    `s4d_mode` "convolution" runs by FFT, "recurrence" position by position; both are the same map and the same
    parameters. dt and A are not decayed and learn at most at 1e-3, as in S4. All is computed in fp32 or fp64.
    """

    no_weight_decay = ("log_dt", "A_log", "A_imag", "D")
    max_lr = dict.fromkeys(("log_dt", "A_log", "A_imag"), _SSM_MAX_LR)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.d_inner, self.mode = spec.expand * spec.d_model, spec.s4d_mode
        real, imaginary = _initial_a(spec)
        self.n = len(real)  # states kept
        self.log_dt = nn.Parameter(log_uniform(self.d_inner, spec.dt_min, spec.dt_max))
        kinds = 1 if spec.s4d_tied else self.d_inner
        self.A_log = nn.Parameter((-real).log().repeat(kinds, 1))
        self.A_imag = None if imaginary is None else nn.Parameter(imaginary.repeat(kinds, 1))
        parts = 1 if imaginary is None else 2
        self.C = nn.Parameter(torch.randn(self.d_inner, self.n, parts) * parts**-0.5)  # unit variance
        self.D = nn.Parameter(torch.randn(self.d_inner)) if spec.skip else None

    def forward(self, x: Tensor, z: Tensor | None, state: LayerState | None = None) -> Tensor:
        """Map (batch, seqlen, d_inner) to the same shape; see `Inner`."""
        u = x.to(self.A_log.dtype)
        with torch.autocast(x.device.type, enabled=False):
            y = self._convolve(u, state) if self.mode == "convolution" else self._recur(u, state)
            y = y if self.D is None else torch.addcmul(y, u, self.D)
        return y.to(x.dtype) if z is None else y.to(x.dtype) * F.silu(z)

    def step(self, x: Tensor, z: Tensor | None, state: LayerState) -> Tensor:
        """Map one position, (batch, d_inner), to the same shape and advance the state in place."""
        u = x.to(self.A_log.dtype)
        with torch.autocast(x.device.type, enabled=False):
            log_decay, drive = self.discretise()
            state["ssm"].copy_(torch.addcmul(u[..., None] * drive, state["ssm"], log_decay.exp()))
            y = self._read_out(state["ssm"])
            y = y if self.D is None else torch.addcmul(y, u, self.D)
        return y.to(x.dtype) if z is None else y.to(x.dtype) * F.silu(z)

    def allocate_state(self, batch: int, device: torch.device) -> LayerState:
        """Return zeros `ssm` (batch, d_inner, states kept): complex, or real in the real form."""
        dtype = self.A_log.dtype if self.A_imag is None else self.A_log.dtype.to_complex()
        return {"ssm": torch.zeros(batch, self.d_inner, self.n, device=device, dtype=dtype)}

    def discretise(self) -> tuple[Tensor, Tensor]:
        """Return dt A and Bbar, both (d_inner, states kept)."""
        real = -torch.exp(self.A_log)
        dt = self.log_dt.exp()[:, None]
        if self.A_imag is None:
            return dt * real, torch.expm1(dt * real) / real
        transition = torch.complex(real, self.A_imag)
        half = dt * transition / 2
        return 2 * half, 2 * half.exp() * half.sinh() / transition  # exp(a) - 1 without cancellation for small dt

    def kernel(self, seqlen: int) -> Tensor:
        """Return the impulse response (d_inner, seqlen), without D."""
        log_decay, drive = self.discretise()
        return self._responses(log_decay, self._output() * drive, seqlen)

    def _output(self) -> Tensor:
        """Return C, the factor 2 of the conjugates included."""
        return self.C[..., 0] if self.A_imag is None else 2 * torch.view_as_complex(self.C)

    def _read_out(self, h: Tensor) -> Tensor:
        y = (h * self._output()).sum(-1)
        return y.real if y.is_complex() else y

    def _responses(self, log_decay: Tensor, weight: Tensor, seqlen: int) -> Tensor:
        """Return Re sum_n weight_n exp(l log_decay_n) for l < seqlen: (..., states) to (..., seqlen).

        With l = i * stride + j the sum is a product of two small matrices, so that 2 sqrt(seqlen) powers are taken
        for each state instead of seqlen.
        """
        stride = math.isqrt(seqlen - 1) + 1
        coarse, fine = _powers(log_decay, stride, -(-seqlen // stride), stride)
        left = weight[..., None] * coarse
        if left.is_complex():  # Re(a b) = Re a Re b - Im a Im b, as one real product
            left = torch.cat((left.real, -left.imag), dim=-2)
            fine = torch.cat((fine.real, fine.imag), dim=-2)
        responses: Tensor = (left.transpose(-1, -2) @ fine).flatten(-2)
        return responses[..., :seqlen]

    def _convolve(self, u: Tensor, state: LayerState | None) -> Tensor:
        seqlen = u.shape[1]
        y = fft_convolution(u, self.kernel(seqlen))
        if state is None:
            return y
        log_decay, drive = self.discretise()
        h = state["ssm"]
        heard = self._responses(log_decay, h * (self._output() * log_decay.exp()), seqlen)  # of what came before
        state["ssm"] = h * (log_decay * seqlen).exp() + self._last_state(u, log_decay) * drive
        return y + heard.transpose(1, 2)

    def _last_state(self, u: Tensor, log_decay: Tensor) -> Tensor:
        """Return sum_l exp((seqlen - 1 - l) log_decay) u[l], (batch, d_inner, states)."""
        seqlen = u.shape[1]
        stride = math.isqrt(seqlen - 1) + 1
        rows = -(-seqlen // stride)
        coarse, fine = _powers(log_decay, stride, rows, stride)
        late_first = F.pad(u.flip(1), (0, 0, 0, rows * stride - seqlen)).reshape(len(u), rows, stride, -1)
        by_row = torch.einsum("brsd,dns->brdn", late_first.to(fine.dtype), fine)
        last: Tensor = torch.einsum("brdn,dnr->bdn", by_row, coarse)
        return last

    def _recur(self, u: Tensor, state: LayerState | None) -> Tensor:
        log_decay, drive = self.discretise()
        decay, output = log_decay.exp(), self._output()
        h = torch.zeros_like(drive).expand(len(u), -1, -1) if state is None else state["ssm"]
        outputs = []
        for now in u.unbind(1):
            h = torch.addcmul(now[..., None] * drive, h, decay)
            outputs.append((h * output).sum(-1))
        if state is not None:
            state["ssm"] = h
        y = torch.stack(outputs, dim=1)
        return y.real if y.is_complex() else y


def _powers(log_decay: Tensor, stride: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return exp(i stride a) for i < rows and exp(j a) for j < columns, on a new last dimension."""
    real = log_decay.real.dtype if log_decay.is_complex() else log_decay.dtype
    coarse = torch.arange(rows, device=log_decay.device, dtype=real) * stride
    fine = torch.arange(columns, device=log_decay.device, dtype=real)
    return (log_decay[..., None] * coarse).exp(), (log_decay[..., None] * fine).exp()


def _initial_a(spec: ModelSpec) -> tuple[Tensor, Tensor | None]:
    """Return the real and imaginary part of A for one channel."""
    if spec.s4d_init == "real":
        return -torch.arange(1, spec.d_state + 1).float(), None
    pairs = spec.d_state // 2
    n = torch.arange(pairs).float()
    half = torch.full((pairs,), -0.5)
    if spec.s4d_init == "lin":
        return half, math.pi * n
    if spec.s4d_init == "legs":
        return half, _legs_frequencies(spec.d_state)
    return half, spec.d_state / math.pi * (spec.d_state / (2 * n + 1) - 1)


def _legs_frequencies(d_state: int) -> Tensor:
    """Return the positive imaginary parts of the eigenvalues of HiPPO-LegS's normal part, (d_state / 2,), rising.

    The normal part is -1/2 I + S with S[n, k] = -sqrt((2n+1)(2k+1)) / 2 below the diagonal, and antisymmetric.
    """
    root = (2 * torch.arange(d_state, dtype=torch.float64, device="cpu") + 1).sqrt()
    below = torch.tril(torch.outer(root, root), -1) / 2
    values: Tensor = torch.linalg.eigvalsh(1j * (below.t() - below))
    return values[d_state // 2 :].float()
