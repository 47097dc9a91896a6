"""The public functions: checks, choice of implementation, and nothing else."""

from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kernels.causal_conv1d.reference import causal_conv1d_reference, causal_conv1d_update_reference
from kernels.causal_conv1d.torch_impl import causal_conv1d_torch, causal_conv1d_update_torch
from kernels.common.checks import FLOATING, check_device, check_dtype, check_nonempty, check_rank, check_shape
from kernels.common.choice import Implementation, resolve, wants_triton
from kernels.common.errors import ShapeError, UnsupportedError

OP = "causal_conv1d"
Activation = Literal["silu"] | None


class ConvOutput(NamedTuple):
    """What the convolution returns, whatever its arguments."""

    y: Tensor
    final_state: Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = None,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    implementation: Implementation = "auto",
) -> ConvOutput:
    """Convolve every channel with its own short filter over the past.

    Computes: y[t] = activation(bias + sum over k < width of weight[:, k] x[t - (width - 1) + k])

    Shapes:
        x, y: (batch, seqlen, d);  weight: (d, width), its last column meets the current position;  bias: (d,)
        initial_state, final_state: (batch, width - 1, d), the positions before the first and those before the next
        reset: (batch, seqlen)
    Dtypes: any floating dtypes, mixed as autocast leaves them; computed in fp32 (fp64 where x is fp64). y and
        final_state have the dtype of x. reset is bool: True hides all earlier positions from this one and the next ones,
        and from final_state.
    Numerics: width products summed in fp32, rounded once.
    Gradients: of every floating argument, and through both outputs. Saved: x, and what the activation was applied to.
    Determinism: bitwise on one machine with one number of threads; no atomics.
    Limits: width >= 2, seqlen >= 1 and any strides; `torch.vmap` over any argument but reset, once.

    Raises:
        ShapeError: names argument, expected and received shape.
        UnsupportedError: device, dtype, activation or implementation; names what works instead.

    Source: the convolution of Gu & Dao 2023 (arXiv 2312.00752), Figure 3.
    """
    _check(x, weight, bias, activation)
    batch, seqlen, d = x.shape
    check_nonempty(OP, "x", (("batch", batch), ("seqlen", seqlen), ("d", d)))
    if initial_state is not None:
        _check_state("initial_state", initial_state, x, weight)
    if reset is not None:
        check_dtype(OP, "reset", reset, (torch.bool,))
        check_shape(OP, "reset", reset, (("batch", batch), ("seqlen", seqlen)))
        check_device(OP, x, (("reset", reset),))
    triton = _triton() if wants_triton(OP, implementation, x.device.type) else None
    arguments = (x, weight, bias, activation, initial_state, reset)
    refusal = "" if triton is None else triton.refusal(*arguments)
    chosen = resolve(OP, implementation, "torch", x.device.type, refusal)
    if chosen == "triton":
        assert triton is not None
        return ConvOutput(*triton.causal_conv1d_triton(*arguments))
    plain = causal_conv1d_reference if chosen == "reference" else causal_conv1d_torch
    with torch.autocast(x.device.type, enabled=False):
        return ConvOutput(*plain(x, weight, bias, activation=activation, initial_state=initial_state, reset=reset))


def causal_conv1d_update(
    state: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """Convolve one position and shift it into the state, in place.

    Computes: as `causal_conv1d` for seqlen 1, with `state` as its initial state, which becomes its final state.

    Shapes: x, y: (batch, d);  state: (batch, width - 1, d);  weight: (d, width);  bias: (d,)
    Dtypes: as `causal_conv1d`; state has the dtype of x.
    Gradients: the plain forms are differentiable as any in-place change is; the Triton kernel has no gradient.
    Determinism: bitwise.
    Limits: width >= 2 and any strides.

    Raises:
        ShapeError: names argument, expected and received shape.
        UnsupportedError: device, dtype, activation or implementation; names what works instead.
    """
    _check(x, weight, bias, activation, one_position=True)
    check_nonempty(OP, "x", (("batch", x.shape[0]), ("d", x.shape[1])))
    _check_state("state", state, x, weight)
    check_dtype(OP, "state", state, (x.dtype,))
    triton = _triton() if wants_triton(OP, implementation, x.device.type) else None
    arguments = (state, x, weight, bias, activation)
    refusal = "" if triton is None else triton.update_refusal(*arguments)
    chosen = resolve(OP, implementation, "torch", x.device.type, refusal)
    if chosen == "triton":
        assert triton is not None
        y: Tensor = triton.causal_conv1d_update_triton(*arguments)
        return y
    plain = causal_conv1d_update_reference if chosen == "reference" else causal_conv1d_update_torch
    with torch.autocast(x.device.type, enabled=False):
        return plain(state, x, weight, bias, activation=activation)


def _triton() -> ModuleType:
    from kernels.causal_conv1d import triton_op, vmap  # noqa: F401 - the rule registers itself

    return triton_op


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, *, one_position: bool = False
) -> None:
    for name, values in (("x", x), ("weight", weight), ("bias", bias)):
        if values is not None:
            check_dtype(OP, name, values, FLOATING)
    check_rank(OP, "x", x, ("(batch, d)",) if one_position else ("(batch, seqlen, d)",))
    check_rank(OP, "weight", weight, ("(d, width)",))
    d, width = x.shape[-1], weight.shape[1]
    check_shape(OP, "weight", weight, (("d", d), ("width", width)))
    if width < 2:
        raise ShapeError(f"{OP}: weight must have width >= 2, got width={width}; width 1 is a multiplication by weight")
    if bias is not None:
        check_shape(OP, "bias", bias, (("d", d),))
    if activation not in (None, "silu"):
        raise UnsupportedError(f"{OP}: activation must be None or 'silu', got {activation!r}")
    check_device(OP, x, (("weight", weight), ("bias", bias)))


def _check_state(name: str, state: Tensor, x: Tensor, weight: Tensor) -> None:
    check_dtype(OP, name, state, FLOATING)
    check_shape(OP, name, state, (("batch", x.shape[0]), ("width - 1", weight.shape[1] - 1), ("d", x.shape[-1])))
    check_device(OP, x, ((name, state),))
