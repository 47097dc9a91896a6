"""`Projections` for several models at once: their linear layers as batched products, in the layouts that what follows reads.

Under `torch.vmap` a member's linear layer is one of K that differ in their weights. PyTorch's own rules would compute them as
batched products too, with the members as the outermost dimension. The convolution and the scan take the members side by side
along the channels, so that every input would be copied there and every gradient back: products can read and write either
layout as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from kernels.common.members import first
from workers.models.decay import decay_rates
from workers.models.split import project
from workers.training.beside import Beside
from workers.training.projections import ONE_HOT, Decay, Projections, Renewed
from workers.training.stacked import Stack


class StackedProjections(Projections):
    """The projections of a stack: all its weights are cast at once, whatever their number."""

    def __init__(self, stack: Stack, device: torch.device, beside: Beside | None) -> None:
        super().__init__(stack.storages, device, beside)
        self._stack = stack
        self._copies = Renewed(beside, _in_one_piece, torch._foreach_copy_)
        self._names = {id(storage): name for name, storage in zip(stack.names, stack.storages, strict=True)}

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Hold for one step's forward and backward passes; at the end every gradient is there for what follows."""
        self._copies.renew()
        with super().step():
            self._by_address |= {place: self.own[key] for place, key in self._copies.addresses().items()}
            yield
        self._copies.forget_mark()

    def in_one_piece(self, stacked: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the stacked parameters, those of channels copied to where members lie side by side without gaps.

        The ops that take members side by side would each copy them in the chain.
        """
        return {
            name: _Copied.apply(values, self) if name in self._stack.of_channels else values  # type: ignore[no-untyped-call]
            for name, values in stacked.items()
        }

    def copied(self, parameter: Tensor) -> Tensor:
        """Return this step's copy of a parameter."""
        return self._copies.of(parameter).detach()

    def cast(self, parameter: Tensor) -> Tensor:
        """Return a stacked parameter as autocast's products take it; itself without autocast."""
        if not torch.is_autocast_enabled(self.device.type):
            return parameter.detach()
        return self._stack.view(self._names[id(parameter)], self._casts.of(self._stack.rows))


def _in_one_piece(parameter: Tensor) -> Tensor:
    return parameter.clone(memory_format=torch.contiguous_format)


class _Copied(torch.autograd.Function):
    """A parameter, from a copy of it: the gradient of one is that of the other."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, projections: StackedProjections) -> Tensor:  # noqa: ARG004
        return projections.copied(parameter)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        return gradient, None


@dataclass(frozen=True, slots=True)
class _Stacked:
    """The stacked parameters; ids of those weights whose products feed an op that takes members side by side."""

    projections: Projections
    side_by_side: frozenset[int]


class TakenOver(TorchFunctionMode):
    """Takes over `F.linear`, `F.embedding` and `decay_rates` inside the function that `torch.vmap` maps over the models.

    Args:
        projections: of the stacked parameters.
        side_by_side: ids of those stacked weights whose products feed an op that takes members side by side.
    """

    def __init__(self, projections: Projections, side_by_side: frozenset[int]) -> None:
        super().__init__()
        self._stacked = _Stacked(projections, side_by_side)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return _linear(self._stacked, *args, **kwargs)
        if func is project:
            x, weight, sizes = args
            return _Split.apply(x, weight, tuple(sizes), self._stacked)  # type: ignore[no-untyped-call]
        if func is F.embedding and args[0].numel() * args[1].shape[0] <= ONE_HOT:
            return _Embedding.apply(args[0], args[1], self._stacked.projections)  # type: ignore[no-untyped-call]
        if func is decay_rates:
            return _Decay.apply(args[0], self._stacked.projections)  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)


def _linear(stacked: _Stacked, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = _Linear.apply(x, weight, bias, stacked)  # type: ignore[no-untyped-call]
    return y


class _Linear(torch.autograd.Function):
    """What is mapped over; only its rule runs, as a weight without members would be no parameter."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stacked: _Stacked) -> Tensor:
        raise NotImplementedError("stacked projections are for use inside vmap over the weights")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: see `forward`."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None, stacked: _Stacked
    ) -> tuple[Tensor, int]:
        """Compute all members' products at once."""
        _check_own(stacked.projections, weight)
        stacked.projections.use(weight)
        x = first(x, in_dims[0], info.batch_size)
        side_by_side = id(weight) in stacked.side_by_side
        y = _Products.apply(x, weight, bias, stacked.projections, side_by_side)  # type: ignore[no-untyped-call]
        return y, y.dim() - 2 if side_by_side else 0


def _check_own(projections: Projections, weight: Tensor) -> None:
    if id(weight) not in projections.own:
        raise NotImplementedError(
            "a layer's weight is computed, not one of the model's parameters: it has no place here"
        )


class _Products(torch.autograd.Function):
    """x (members, ..., inputs), weight (members, outputs, inputs), bias (members, outputs)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, projections: Projections, side_by_side: bool
    ) -> Tensor:
        taken = projections.cast(weight)
        fed = x.to(taken.dtype)
        rows = fed.flatten(1, -2)
        y = _bmm(rows, taken.transpose(1, 2), taken.dtype, side_by_side=side_by_side)
        if bias is not None:
            y += projections.cast(bias)[:, None]
        ctx.save_for_backward(rows, taken)
        ctx.weight, ctx.bias, ctx.projections = weight, bias, projections
        ctx.x_dtype, ctx.x_shape, ctx.side_by_side = x.dtype, x.shape, side_by_side
        lead, outputs = x.shape[1:-1], weight.shape[1]
        if side_by_side:
            return y.transpose(0, 1).view(*lead, len(x), outputs)
        return y.view(len(x), *lead, outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, taken = ctx.saved_tensors
        weight, bias = ctx.weight, ctx.bias
        dy = dy.flatten(0, -3).transpose(0, 1) if ctx.side_by_side else dy.flatten(1, -2)
        dx = None
        if ctx.needs_input_grad[0]:
            came_so = not rows.is_contiguous() and rows.transpose(0, 1).is_contiguous()
            dx = _as_it_came(_bmm(dy, taken, ctx.x_dtype, side_by_side=came_so), ctx.x_shape, side_by_side=came_so)
        with ctx.projections.aside(weight, dy, rows):
            dweight = _bmm(dy.transpose(1, 2), rows, weight.dtype)
            dbias = None if bias is None else dy.sum(1, dtype=bias.dtype)
        return dx, dweight, dbias, None, None


class _Split(torch.autograd.Function):
    """As `_Linear`, of `project`."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, sizes: tuple[int, ...], stacked: _Stacked) -> tuple[Tensor, ...]:
        raise NotImplementedError("stacked projections are for use inside vmap over the weights")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept: see `forward`."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, sizes: tuple[int, ...], stacked: _Stacked
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Compute all members' products at once."""
        _check_own(stacked.projections, weight)
        stacked.projections.use(weight)
        x = first(x, in_dims[0], info.batch_size)
        side_by_side = id(weight) in stacked.side_by_side
        parts: tuple[Tensor, ...] = _Parts.apply(x, weight, sizes, stacked.projections, side_by_side)  # type: ignore[no-untyped-call]
        return parts, tuple(parts[0].dim() - 2 if side_by_side else 0 for _ in parts)


class _Parts(torch.autograd.Function):
    """As `_Products` without a bias, cut along the outputs. Their gradients are multiplied part by part: nothing joins them.

    Parts that are wanted side by side are products of their own, since a part of one product could not be laid out so.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, sizes: tuple[int, ...], projections: Projections, side_by_side: bool
    ) -> tuple[Tensor, ...]:
        taken = projections.cast(weight)
        fed = x.to(taken.dtype)
        rows, lead = fed.flatten(1, -2), x.shape[1:-1]
        ctx.save_for_backward(rows, taken)
        ctx.weight, ctx.projections, ctx.sizes = weight, projections, sizes
        ctx.x_dtype, ctx.x_shape, ctx.side_by_side = x.dtype, x.shape, side_by_side
        if side_by_side:
            products = [
                _bmm(rows, part.transpose(1, 2), taken.dtype, side_by_side=True)
                for part in torch.split(taken, list(sizes), 1)
            ]
            return tuple(one.transpose(0, 1).view(*lead, len(x), -1) for one in products)
        whole = _bmm(rows, taken.transpose(1, 2), taken.dtype).view(len(x), *lead, -1)
        return torch.split(whole, list(sizes), -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *parts: Tensor) -> tuple[Tensor | None, ...]:
        rows, taken = ctx.saved_tensors
        cut = [(dy, own) for dy, own in zip(parts, torch.split(taken, list(ctx.sizes), 1), strict=True) if own.shape[1]]
        slopes = [dy.flatten(0, -3).transpose(0, 1) if ctx.side_by_side else dy.flatten(1, -2) for dy, _ in cut]
        dx = None
        if ctx.needs_input_grad[0]:
            came_so = not rows.is_contiguous() and rows.transpose(0, 1).is_contiguous()
            weights = [own for _, own in cut]
            dx = _sum_of_products(slopes, weights, ctx.x_dtype, side_by_side=came_so)
            dx = _as_it_came(dx, ctx.x_shape, side_by_side=came_so)
        with ctx.projections.aside(ctx.weight, *slopes, rows):
            dweight = torch.cat([_bmm(dy.transpose(1, 2), rows, ctx.weight.dtype) for dy in slopes], 1)
        return dx, dweight, None, None, None


def _sum_of_products(
    left: Sequence[Tensor], right: Sequence[Tensor], dtype: torch.dtype, *, side_by_side: bool
) -> Tensor:
    total = _bmm(left[0], right[0], dtype, side_by_side=side_by_side)
    for one, other in zip(left[1:], right[1:], strict=True):
        if one.dtype == total.dtype:
            total.baddbmm_(one, other)
        else:
            total += _bmm(one, other, dtype, side_by_side=side_by_side)
    return total


def _as_it_came(dx: Tensor, shape: torch.Size, *, side_by_side: bool) -> Tensor:
    """View the rows (members, rows, inputs) of a gradient in the shape of what they are a gradient of."""
    if side_by_side:
        return dx.transpose(0, 1).view(*shape[1:-1], shape[0], shape[-1]).movedim(-2, 0)
    return dx.view(shape)


def _bmm(left: Tensor, right: Tensor, dtype: torch.dtype, *, side_by_side: bool = False) -> Tensor:
    """Multiply and round once, to `dtype`; (members, rows, columns), which lie in memory as (rows, members, columns) if asked."""
    if left.dtype != dtype and left.is_cuda:
        product: Tensor = torch.bmm(left, right, out_dtype=dtype)
        return product.transpose(0, 1).contiguous().transpose(0, 1) if side_by_side else product
    if not side_by_side:
        return torch.bmm(left, right).to(dtype)
    members, count, columns = left.shape[0], left.shape[1], right.shape[2]
    out = left.new_empty(count, members, columns).transpose(0, 1)
    torch.bmm(left, right, out=out)
    return out.to(dtype)


class _Embedding(torch.autograd.Function):
    """As `_Linear`, of rows that tokens name."""

    @staticmethod
    def forward(tokens: Tensor, weight: Tensor, projections: Projections) -> Tensor:
        raise NotImplementedError("stacked projections are for use inside vmap over the weights")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: see `forward`."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], tokens: Tensor, weight: Tensor, projections: Projections
    ) -> tuple[Tensor, int]:
        """Look up all members' tokens at once."""
        _check_own(projections, weight)
        projections.use(weight)
        return _LookUp.apply(first(tokens, in_dims[0], info.batch_size), weight, projections), 0  # type: ignore[no-untyped-call]


class _LookUp(torch.autograd.Function):
    """tokens (members, batch, seqlen), weight (members, vocab_size, d_model)."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, projections: Projections) -> Tensor:
        members, vocab_size, _ = weight.shape
        with projections.aside(weight):
            ctx.save_for_backward(projections.one_hot(tokens, vocab_size))
        ctx.weight, ctx.projections = weight, projections
        member = torch.arange(members, device=tokens.device).view(-1, *(1 for _ in tokens.shape[1:]))
        return weight[member, tokens]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        with ctx.projections.aside(ctx.weight, dy):
            # a product a sequence, then their sum: one product over all positions would be slow, and no more exact
            each = torch.matmul(rows.to(dy.dtype).transpose(-1, -2), dy)
            dweight = each.flatten(1, -3).sum(1)
        return None, dweight, None


class _Decay(torch.autograd.Function):
    """As `_Linear`, of logarithms."""

    @staticmethod
    def forward(log: Tensor, projections: Projections) -> Tensor:
        raise NotImplementedError("stacked projections are for use inside vmap over the weights")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: see `forward`."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], log: Tensor, projections: Projections) -> tuple[Tensor, int]:  # noqa: ARG004
        """Compute all members' rates at once."""
        _check_own(projections, log)
        return Decay.apply(log, projections), 0  # type: ignore[no-untyped-call]
