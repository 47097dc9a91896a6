"""Inputs for the ops: random tensors of a shape, the call, and which of them have gradients. What parity and speed share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kernels.causal_conv1d import causal_conv1d, causal_conv1d_update
from kernels.rms_norm import rms_norm
from kernels.selective_scan import selective_scan
from kernels.selective_state_update import selective_state_update
from kernels.token_loss import token_loss
from kernels.token_loss.api import IGNORE

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Problem:
    """One call of an op: `function(**tensors, **options)`."""

    op: str
    label: str
    dtype: torch.dtype
    tensors: dict[str, Tensor]
    function: Callable[..., Any]
    outputs: tuple[str, ...]
    """Names of what the function returns, in order."""
    options: dict[str, Any] = field(default_factory=dict)
    mutated: tuple[str, ...] = ()
    """Arguments that the op changes in place; such an op has no gradients."""
    plain: str = "torch"
    """The name of the op's plain PyTorch implementation."""
    has_gradients: bool = True

    @property
    def differentiable(self) -> tuple[str, ...]:
        """Names of the arguments whose gradients are wanted."""
        if self.mutated or not self.has_gradients:
            return ()
        return tuple(name for name, tensor in self.tensors.items() if tensor.is_floating_point() or tensor.is_complex())

    def to_double(self) -> "Problem":
        """The same problem in float64, from the already rounded values."""
        doubled = {name: in_double(tensor) for name, tensor in self.tensors.items()}
        return replace(self, tensors=doubled, dtype=torch.float64)

    def strided(self) -> "Problem":
        """The same values as views with every stride doubled or more, surrounded by NaN (True in a mask)."""
        return replace(self, tensors={name: _strided(tensor) for name, tensor in self.tensors.items()})

    def call(self, implementation: str) -> dict[str, Tensor]:
        """Run the op; an argument changed in place is copied first and returned among the outputs."""
        tensors = {name: _copied(tensor) if name in self.mutated else tensor for name, tensor in self.tensors.items()}
        result = self.function(**tensors, **self.options, implementation=implementation)
        values = (result,) if isinstance(result, Tensor) else tuple(result)
        return dict(zip(self.outputs, values, strict=True)) | {name: tensors[name] for name in self.mutated}


def selective_scan_problem(
    sizes: Sizes,
    dtype: torch.dtype,
    device: str,
    *,
    seed: int = 0,
    ngroups: int = 0,
    initial_state: bool = False,
    reset: bool = False,
) -> Problem:
    """Steps of 1e-3 to 1e-1 after bias and softplus and A in -[1, d_state], as Mamba initialises them."""
    draw = _Draw(dtype, device, seed)
    batch, seqlen, d_inner, d_state = (sizes[name] for name in ("batch", "seqlen", "d_inner", "d_state"))
    row = (batch, seqlen, d_inner)
    state_row = (batch, seqlen, ngroups, d_state) if ngroups else (batch, seqlen, d_state)
    tensors = {
        "x": draw.normal(*row),
        "dt": draw.normal(*row, scale=0.5),
        "A": -(torch.arange(1, d_state + 1, device=device).float().repeat(d_inner, 1) * draw.uniform(d_inner, 1)),
        "B": draw.normal(*state_row),
        "C": draw.normal(*state_row),
        "D": draw.full_normal(d_inner),
        "z": draw.normal(*row),
        "dt_bias": torch.log(torch.expm1(torch.exp(draw.uniform(d_inner) * 4.6 - 6.9))),
    }
    if initial_state:
        tensors["initial_state"] = draw.full_normal(batch, d_inner, d_state)
    if reset:
        tensors["reset"] = draw.marks(batch, seqlen)
    return Problem(
        "selective_scan", _label(sizes), dtype, tensors, selective_scan, ("y", "final_state"), {"dt_softplus": True}, plain="chunked"
    )  # fmt: skip


def complex_scan_problem(
    sizes: Sizes,
    dtype: torch.dtype,
    device: str,
    *,
    seed: int = 0,
    ngroups: int = 0,
    initial_state: bool = False,
    reset: bool = False,
) -> Problem:
    """The selective scan with A, B and C complex: A is -1/2 + n i as in S4D-Lin, times up to 1; B and C are complex64."""
    given = selective_scan_problem(
        sizes, dtype, device, seed=seed, ngroups=ngroups, initial_state=initial_state, reset=reset
    )
    draw = _Draw(dtype, device, seed + 1)
    tensors = given.tensors
    rate = 0.5 + 0.5 * draw.uniform(*tensors["A"].shape)
    turning = torch.arange(sizes["d_state"], device=device) * draw.uniform(sizes["d_inner"], 1)
    tensors["A"] = torch.complex(-rate, turning)
    for name in ("B", "C", "initial_state"):
        if name in tensors:
            real = tensors[name].float()
            tensors[name] = torch.complex(real, draw.full_normal(*real.shape))
    return replace(given, op="selective_scan_complex")


def causal_conv1d_problem(
    sizes: Sizes, dtype: torch.dtype, device: str, *, seed: int = 0, initial_state: bool = False, reset: bool = False
) -> Problem:
    """With bias and SiLU, as Mamba uses it; weights and bias fp32, as under autocast."""
    draw = _Draw(dtype, device, seed)
    batch, seqlen, d, width = (sizes[name] for name in ("batch", "seqlen", "d", "width"))
    tensors = {"x": draw.normal(batch, seqlen, d), "weight": draw.full_normal(d, width), "bias": draw.full_normal(d)}
    if initial_state:
        tensors["initial_state"] = draw.normal(batch, width - 1, d)
    if reset:
        tensors["reset"] = draw.marks(batch, seqlen)
    outputs = ("y", "final_state")
    return Problem("causal_conv1d", _label(sizes), dtype, tensors, causal_conv1d, outputs, {"activation": "silu"})


def rms_norm_problem(sizes: Sizes, dtype: torch.dtype, device: str, *, seed: int = 0, residual: bool = True) -> Problem:
    """x in `dtype`, added to a residual stream in fp32."""
    draw = _Draw(dtype, device, seed)
    batch, seqlen, d = (sizes[name] for name in ("batch", "seqlen", "d"))
    tensors = {"x": draw.normal(batch, seqlen, d), "weight": draw.full_normal(d)}
    if residual:
        tensors["residual"] = draw.full_normal(batch, seqlen, d)
    return Problem("rms_norm", _label(sizes), dtype, tensors, rms_norm, ("y", "residual"))


def token_loss_problem(sizes: Sizes, dtype: torch.dtype, device: str, *, seed: int = 0) -> Problem:
    """Logits in `dtype`; a target in five does not count."""
    draw = _Draw(dtype, device, seed)
    rows, vocab_size, members = (sizes[name] for name in ("rows", "vocab_size", "members"))
    targets = (draw.uniform(rows) * vocab_size).long()
    targets[draw.marks(rows)] = IGNORE
    tensors = {"logits": draw.normal(rows, vocab_size, scale=3.0), "targets": targets, "scale": draw.uniform(members)}
    return Problem("token_loss", _label(sizes), dtype, tensors, token_loss, ("losses", "slopes"), has_gradients=False)


def selective_state_update_problem(
    sizes: Sizes, dtype: torch.dtype, device: str, *, seed: int = 0, ngroups: int = 0
) -> Problem:
    """One decode step from a state that is not zero."""
    draw = _Draw(dtype, device, seed)
    batch, d_inner, d_state = (sizes[name] for name in ("batch", "d_inner", "d_state"))
    state_row = (batch, ngroups, d_state) if ngroups else (batch, d_state)
    tensors = {
        "state": draw.full_normal(batch, d_inner, d_state),
        "x": draw.normal(batch, d_inner),
        "dt": draw.normal(batch, d_inner),
        "A": -(torch.arange(1, d_state + 1, device=device).float().repeat(d_inner, 1) * draw.uniform(d_inner, 1)),
        "B": draw.normal(*state_row),
        "C": draw.normal(*state_row),
        "D": draw.full_normal(d_inner),
        "z": draw.normal(batch, d_inner),
        "dt_bias": draw.full_normal(d_inner) - 3,
    }
    options, op = {"dt_softplus": True}, "selective_state_update"
    return Problem(op, _label(sizes), dtype, tensors, selective_state_update, ("y",), options, mutated=("state",))


def causal_conv1d_update_problem(sizes: Sizes, dtype: torch.dtype, device: str, *, seed: int = 0) -> Problem:
    """One decode step of the convolution."""
    draw = _Draw(dtype, device, seed)
    batch, d, width = (sizes[name] for name in ("batch", "d", "width"))
    tensors = {
        "state": draw.normal(batch, width - 1, d),
        "x": draw.normal(batch, d),
        "weight": draw.full_normal(d, width),
        "bias": draw.full_normal(d),
    }
    options, op = {"activation": "silu"}, "causal_conv1d_update"
    return Problem(op, _label(sizes), dtype, tensors, causal_conv1d_update, ("y",), options, mutated=("state",))


def in_double(tensor: Tensor) -> Tensor:
    """The same values in float64 or its complex; a mask as it is."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _copied(tensor: Tensor) -> Tensor:
    """A copy that keeps the strides, in a buffer of its own."""
    buffer = torch.zeros(1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)),
                         dtype=tensor.dtype, device=tensor.device)  # fmt: skip
    return buffer.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def _strided(tensor: Tensor) -> Tensor:
    poison = True if tensor.dtype == torch.bool else float("nan")
    buffer = torch.full([2 * size + 1 for size in tensor.shape], poison, dtype=tensor.dtype, device=tensor.device)
    view = buffer[tuple(slice(1, None, 2) for _ in tensor.shape)]
    return view.copy_(tensor)


def _label(sizes: Sizes) -> str:
    return "x".join(str(size) for size in sizes.values())


class _Draw:
    """Random tensors from one seeded generator on the device that needs them."""

    def __init__(self, dtype: torch.dtype, device: str, seed: int) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator(device).manual_seed(seed)

    def full_normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (self.full_normal(*shape) * scale).to(self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def marks(self, *shape: int) -> Tensor:
        return self.uniform(*shape) < 0.2
