"""`Projections` for several models at once: their linear layers as batched products, in the layouts that what follows reads.

Under `torch.vmap` a member's linear layer is one of K that differ in their weights. PyTorch's own rules would compute them as
batched products too, with the members as the outermost dimension. The convolution and the scan take the members side by side
along the channels, so that every input would be copied there and every gradient back: products can read and write either
layout as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from kernels.common.members import first
from workers.models.decay import decay_rates
from workers.models.seam import across, joins
from workers.models.split import project, project_through
from workers.training.beside import Beside
from workers.training.projections import ONE_HOT, Decay, Projections, Renewed
from workers.training.stacked import Stack
from workers.training.stacked_products import LookUp, MappedOver, Parts, Products, check_own
from workers.training.stacked_seam import Across, joined
from workers.training.stacked_taken import COPY, DECAY, StackedTaken
from workers.training.stacked_through import Through, serves_through


class StackedProjections(Projections):
    """The projections of a stack: all its weights are cast at once, whatever their number.

    Where the update makes what a step takes of the parameters, that is `taken`.
    """

    def __init__(
        self, stack: Stack, device: torch.device, beside: Beside | None, taken: StackedTaken | None = None
    ) -> None:
        super().__init__(stack.storages, device, beside)
        self._stack, self._taken = stack, taken
        self._copies = Renewed(beside, _in_one_piece, torch._foreach_copy_)
        self._names = {id(storage): name for name, storage in zip(stack.names, stack.storages, strict=True)}

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Hold for one step's forward and backward passes; at the end every gradient is there for what follows."""
        with super().step():
            self._copies.renew()  # behind the casts, which are wanted first
            addresses = self._copies.addresses() if self._taken is None else self._taken.addresses()
            self._by_address |= {place: self.own[key] for place, key in addresses.items()}
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
        if self._taken is not None:
            return self._taken.of(parameter, COPY)
        return self._copies.of(parameter).detach()

    def cast(self, parameter: Tensor) -> Tensor:
        """Return a stacked parameter as autocast's products take it; itself without autocast."""
        if not torch.is_autocast_enabled(self.device.type):
            return parameter.detach()
        if self._taken is not None:
            return self._taken.cast(parameter)
        return self._stack.view(self._names[id(parameter)], self._casts.of(self._stack.rows))

    def decay(self, log: Tensor) -> Tensor:
        """Return this step's rates of decay of a parameter."""
        return super().decay(log) if self._taken is None else self._taken.of(log, DECAY)


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
    """Takes over linear layers, what lies between them, embeddings and rates inside the function that `torch.vmap` maps over the models.

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
        if func is project_through:
            x, weight, sizes, own = args
            return _Through.apply(x, weight, own, tuple(sizes), self._stacked)  # type: ignore[no-untyped-call]
        if func is joins:
            return joined(self._stacked.projections, *args)
        if func is across:
            rows, own, residual, norm, weight, sizes = args
            inputs = (rows, own, residual, norm.weight, weight, norm.eps, tuple(sizes))
            places = (self._stacked.projections, self._stacked.side_by_side)
            return Across.apply(*inputs, *places, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        if func is F.embedding and args[0].numel() * args[1].shape[0] <= ONE_HOT:
            return _Embedding.apply(args[0], args[1], self._stacked.projections)  # type: ignore[no-untyped-call]
        if func is decay_rates:
            return _Decay.apply(args[0], self._stacked.projections)  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)


def _linear(stacked: _Stacked, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = _Linear.apply(x, weight, bias, stacked)  # type: ignore[no-untyped-call]
    return y


class _Linear(MappedOver):
    """`F.linear`."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None, stacked: _Stacked
    ) -> tuple[Tensor, int]:
        """Compute all members' products at once."""
        check_own(stacked.projections, weight)
        stacked.projections.use(weight)
        x = first(x, in_dims[0], info.batch_size)
        side_by_side = id(weight) in stacked.side_by_side
        y = Products.apply(x, weight, bias, stacked.projections, side_by_side)  # type: ignore[no-untyped-call]
        return y, y.dim() - 2 if side_by_side else 0


class _Split(MappedOver):
    """`project`."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, sizes: tuple[int, ...], stacked: _Stacked
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Compute all members' products at once."""
        check_own(stacked.projections, weight)
        stacked.projections.use(weight)
        x = first(x, in_dims[0], info.batch_size)
        side_by_side = id(weight) in stacked.side_by_side
        parts: tuple[Tensor, ...] = Parts.apply(x, weight, sizes, stacked.projections, side_by_side)  # type: ignore[no-untyped-call]
        return parts, tuple(parts[0].dim() - 2 if side_by_side else 0 for _ in parts)


class _Through(MappedOver):
    """`project_through`."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        weight: Tensor,
        own: Tensor,
        sizes: tuple[int, ...],
        stacked: _Stacked,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Compute all members' products at once."""
        projections = stacked.projections
        for one in (weight, own):
            check_own(projections, one)
            projections.use(one)
        x = first(x, in_dims[0], info.batch_size)
        side_by_side = id(own) in stacked.side_by_side
        if id(weight) not in stacked.side_by_side and serves_through(projections, weight, own, sizes):
            kept, dt, *others = Through.apply(x, weight, own, sizes, projections, side_by_side)  # type: ignore[no-untyped-call]
        else:
            kept = x
            part, *others = Parts.apply(x, weight, sizes, projections, False)  # type: ignore[no-untyped-call]
            dt = Products.apply(part, own, None, projections, side_by_side)  # type: ignore[no-untyped-call]
        return (kept, dt, *others), (0, dt.dim() - 2 if side_by_side else 0, *(0 for _ in others))


class _Embedding(MappedOver):
    """Rows that tokens name."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], tokens: Tensor, weight: Tensor, projections: Projections
    ) -> tuple[Tensor, int]:
        """Look up all members' tokens at once."""
        check_own(projections, weight)
        projections.use(weight)
        return LookUp.apply(first(tokens, in_dims[0], info.batch_size), weight, projections), 0  # type: ignore[no-untyped-call]


class _Decay(MappedOver):
    """Rates of logarithms."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], log: Tensor, projections: Projections) -> tuple[Tensor, int]:  # noqa: ARG004
        """Compute all members' rates at once."""
        check_own(projections, log)
        return Decay.apply(log, projections), 0  # type: ignore[no-untyped-call]
