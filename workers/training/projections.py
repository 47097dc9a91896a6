"""Linear layers and embeddings on a GPU, in fewer and shorter kernels than autograd's own.

A tiny model's step is a chain of kernels of two to five microseconds, so what counts is how many of them follow each other:

- A weight's gradient is needed only after the whole backward. While a step is recorded into a graph it is computed on a stream
  beside the chain of layers; elsewhere in line. Both give the same bits.
- Under bf16 autocast all weights are cast in one kernel a step, beside the embedding, and products give the weights' gradients
  in fp32 as they are, without a rounding to bf16 and a cast of each. The rates at which states decay are computed there, too.
- Of the norms' and the convolutions' gradients the last sums, which nothing else reads, are made beside the chain.
- An embedding of few tokens takes its gradient by a product with one-hot rows: PyTorch's deterministic kernel reads all positions
  for each token (49 of a step's 400 microseconds at batch 8 x 256 on an H100, 2026-11-24).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from kernels.common.aside import taking
from workers.models.decay import decay_rates
from workers.models.split import project, project_through
from workers.training.beside import Beside

ONE_HOT = 2**24  # numbers of the one-hot rows, 64 MiB: beyond them PyTorch's own gradient of an embedding is used


class Renewed:
    """What each step makes of some parameters alone: all at once, beside the chain, and waited for where it is first read.

    Args:
        make: makes it of one parameter, where it is wanted for the first time.
        renew: writes it anew; given all that was made and the parameters.
    """

    def __init__(
        self,
        beside: Beside | None,
        make: Callable[[Tensor], Tensor],
        renew: Callable[[list[Tensor], list[Tensor]], None],
    ) -> None:
        self._beside, self._make, self._renew = beside, make, renew
        self._masters: list[Tensor] = []
        self._made: dict[int, Tensor] = {}
        self._mark: object = None

    def renew(self) -> None:
        """Make all of it anew."""
        if not self._masters:
            return
        with contextlib.nullcontext() if self._beside is None else self._beside.fork():
            self._renew(list(self._made.values()), self._masters)
        self._mark = None if self._beside is None else self._beside.mark()

    def of(self, parameter: Tensor) -> Tensor:
        """Return what this step made of a parameter."""
        if self._mark is not None and self._beside is not None:
            self._beside.wait(self._mark)
        self._mark = None
        if id(parameter) not in self._made:
            self._masters.append(parameter.detach())
            self._made[id(parameter)] = self._make(parameter.detach())
        return self._made[id(parameter)]

    def addresses(self) -> dict[int, int]:
        """Return the id of each parameter by the address of what was made of it."""
        return {made.data_ptr(): key for key, made in self._made.items()}

    def forget_mark(self) -> None:
        """Take note that the chain has waited for everything."""
        self._mark = None


class Projections:
    """Takes over `F.linear`, `F.embedding` and `decay_rates` of a model's parameters inside `forward()`; all else stays.

    Args:
        model: its parameters are those taken over.
        device: where it computes.
        beside: where gradients of weights are computed while a step is recorded. Takes memory for what they are made of
            until the backward ends, and one backward a step. None: in the chain.
    """

    def __init__(self, model: nn.Module, device: torch.device, beside: Beside | None) -> None:
        self.device = device
        self.own = {id(parameter): parameter for parameter in model.parameters()}  # held, so that no id is used again
        self._beside = beside
        self._uses: Counter[int] = Counter()
        self._counts = True
        self._partial: dict[int, Tensor] = {}
        self._shared: set[int] = set()
        self._casts = Renewed(beside, lambda one: one.to(torch.get_autocast_dtype(device.type)), torch._foreach_copy_)
        self.decays = Renewed(beside, decay_rates, _renew_decays)
        self._eyes: dict[int, Tensor] = {}
        self._by_address: dict[int, Tensor] = {}

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Hold for one step's forward and backward passes; at the end every gradient is there for what follows."""
        self._uses.clear()
        self._partial.clear()
        self._by_address = {one.data_ptr(): one for one in self.own.values()}
        self._casts.renew()
        self.decays.renew()
        with taking(self):
            yield
        if self._beside is not None:
            self._beside.join()
        self._casts.forget_mark()
        self.decays.forget_mark()

    def forward(self) -> contextlib.AbstractContextManager[object]:
        """Hold for a forward pass."""
        return _TakenOver(self)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Hold for a forward pass that computes again what one before it did: its uses of weights are no further ones."""
        self._counts = False
        try:
            with _TakenOver(self):
                yield
        finally:
            self._counts = True

    def use(self, weight: Tensor) -> None:
        """Take note of a use of a weight whose gradient is made here."""
        self._uses[id(weight)] += self._counts

    def share(self, weight: Tensor) -> None:
        """Take note of a weight that autograd itself makes a gradient of too: it adds up what there is in the chain."""
        self._shared.add(id(weight))

    def cast(self, parameter: Tensor) -> Tensor:
        """Return a parameter as autocast's products take it, a copy that is renewed at each step; itself without autocast."""
        if not torch.is_autocast_enabled(self.device.type):
            return parameter.detach()
        return self._casts.of(parameter)

    def decay(self, log: Tensor) -> Tensor:
        """Return this step's rates of decay of a parameter."""
        return self.decays.of(log)

    def one_hot(self, tokens: Tensor, vocab_size: int) -> Tensor:
        """Return fp32 rows (*tokens, vocab_size)."""
        if vocab_size not in self._eyes:
            self._eyes[vocab_size] = torch.eye(vocab_size, device=tokens.device)
        return F.embedding(tokens, self._eyes[vocab_size])

    def used(self, parameter: Tensor) -> None:
        """Take note of a use by an op that makes its parameters' gradients itself; see `kernels.common.aside`."""
        if (own := self._owned(parameter)) is not None:
            self.use(own)

    def aside(
        self, parameter: Tensor, *made_of: Tensor, loose: bool = False
    ) -> contextlib.AbstractContextManager[object]:
        """Compute a parameter's only gradient beside the chain where that is possible; what it is made of is kept.

        Loose: from what the chain has made alone, so that it need not follow other work beside it.
        """
        own = self._owned(parameter)
        return self._off_chain(own is not None and self._uses[id(own)] == 1, *made_of, loose=loose)

    def apart(self, *made_of: Tensor) -> contextlib.AbstractContextManager[object]:
        """Compute beside the chain what only what is beside it reads; what it is made of is kept."""
        return self._off_chain(True, *made_of)

    def _owned(self, parameter: Tensor) -> Tensor | None:
        """Return the parameter that a tensor is all of, in whatever view; None for what was computed."""
        own = self._by_address.get(parameter.data_ptr())
        return own if own is not None and own.numel() == parameter.numel() else None

    def adding(self, weight: Tensor, *made_of: Tensor) -> contextlib.AbstractContextManager[object]:
        """As `aside`, for one of several gradients of a weight, which goes to `settle`."""
        return self._off_chain(id(weight) not in self._shared, *made_of)

    def _off_chain(
        self, possible: bool, *made_of: Tensor, loose: bool = False
    ) -> contextlib.AbstractContextManager[object]:
        if self._beside is None:
            return contextlib.nullcontext()
        if not possible:  # autograd adds such a weight's gradients up as they come
            self._beside.join()
            return contextlib.nullcontext()
        return self._beside.fork(*made_of, loose=loose)

    def settle(self, weight: Tensor, gradient: Tensor) -> Tensor | None:
        """Return the gradient of all uses of a weight with that of the last, None before; called inside `adding`.

        Autograd would add them up in the chain, without waiting for what is beside it.
        """
        key = id(weight)
        if key in self._partial:
            gradient = self._partial.pop(key) + gradient
        self._uses[key] -= 1
        if self._uses[key] and key not in self._shared:
            self._partial[key] = gradient
            return None
        return gradient


class _TakenOver(TorchFunctionMode):
    def __init__(self, projections: Projections) -> None:
        super().__init__()
        self._projections = projections

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, projections = kwargs or {}, self._projections
        if func is F.linear and id(args[1]) in projections.own:
            projections.use(args[1])
            return _linear(projections, *args, **kwargs)
        if func is project:
            return _parts(projections, *args)
        if func is project_through:
            x, weight, sizes, first = args
            part, *others = _parts(projections, x, weight, sizes)
            if id(first) not in projections.own:
                return x, F.linear(part, first), *others
            projections.use(first)
            return x, _linear(projections, part, first), *others
        if func is F.embedding and id(args[1]) in projections.own:
            if args[0].dim() != 2 or args[0].numel() * args[1].shape[0] > ONE_HOT:
                projections.share(args[1])
            else:
                projections.use(args[1])
                return _Embedding.apply(args[0], args[1], projections)  # type: ignore[no-untyped-call]
        if func is decay_rates and id(args[0]) in projections.own:
            return Decay.apply(args[0], projections)  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)


def _parts(projections: Projections, x: Tensor, weight: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    if id(weight) not in projections.own:
        return torch.split(F.linear(x, weight), list(sizes), dim=-1)
    projections.use(weight)
    return torch.split(_linear(projections, x, weight), list(sizes), dim=-1)


def _linear(projections: Projections, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = _Linear.apply(x, weight, bias, projections)  # type: ignore[no-untyped-call]
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, projections: Projections) -> Tensor:
        taken = projections.cast(weight)
        fed = x.to(taken.dtype)
        ctx.save_for_backward(fed, taken)
        ctx.weight, ctx.bias, ctx.projections, ctx.x_dtype = weight, bias, projections, x.dtype
        return F.linear(fed, taken, None if bias is None else projections.cast(bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        fed, taken = ctx.saved_tensors
        weight, bias = ctx.weight, ctx.bias
        rows, inputs = dy.reshape(-1, dy.shape[-1]), fed.reshape(-1, fed.shape[-1])
        dx = _product(rows, taken, ctx.x_dtype).view(fed.shape) if ctx.needs_input_grad[0] else None
        with ctx.projections.adding(weight, rows, inputs):
            dweight = ctx.projections.settle(weight, _product(rows.t(), inputs, weight.dtype))
            dbias = None if bias is None else rows.sum(0, dtype=bias.dtype)
        return dx, dweight, dbias, None


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply and round once, to `dtype`."""
    if left.dtype == dtype or not left.is_cuda:
        return left.mm(right).to(dtype)
    product: Tensor = torch.mm(left, right, out_dtype=dtype)
    return product


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, projections: Projections) -> Tensor:
        with projections.adding(weight):
            ctx.save_for_backward(projections.one_hot(tokens, weight.shape[0]))
        ctx.weight, ctx.projections = weight, projections
        return F.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        with ctx.projections.adding(ctx.weight, dy):
            # a product a sequence, then their sum: one product over all positions would be slow, and no more exact
            dweight = ctx.projections.settle(ctx.weight, torch.bmm(rows.transpose(1, 2), dy).sum(0))
        return None, dweight, None


class Decay(torch.autograd.Function):
    """`decay_rates` of a parameter, from what the step has made beside the chain; its gradient is made there, too."""

    @staticmethod
    def forward(ctx: Any, log: Tensor, projections: Projections) -> Tensor:
        projections.use(log)
        rates = projections.decay(log).detach()  # another tensor: the one that is renewed belongs to no graph
        ctx.save_for_backward(rates)
        ctx.log, ctx.projections = log, projections
        return rates

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, drates: Tensor) -> tuple[Tensor | None, ...]:
        (rates,) = ctx.saved_tensors
        with ctx.projections.adding(ctx.log, drates, rates):
            # the derivative of -exp is itself; laid out as the parameter, or autograd would copy it in the chain
            dlog = ctx.projections.settle(ctx.log, torch.mul(drates, rates, out=torch.empty_like(rates)))
        return dlog, None


def _renew_decays(rates: list[Tensor], logs: list[Tensor]) -> None:
    torch._foreach_copy_(rates, logs)
    torch._foreach_exp_(rates)
    torch._foreach_neg_(rates)
