"""Linear layers and embeddings on a GPU, in fewer and shorter kernels than autograd's own.

A tiny model's step is a chain of kernels of two to five microseconds, so what counts is how many of them follow each other:

- A weight's gradient is needed only after the whole backward. While a step is recorded into a graph it is computed on a stream
  beside the chain of layers; elsewhere in line. Both give the same bits.
- Under bf16 autocast all weights are cast in one kernel a step, and products give the weights' gradients in fp32 as they are,
  without a rounding to bf16 and a cast of each.
- An embedding of few tokens takes its gradient by a product with one-hot rows: PyTorch's deterministic kernel reads all positions
  for each token (49 of a step's 400 microseconds at batch 8 x 256 on an H100, 2026-11-24).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from workers.training.beside import Beside

ONE_HOT = 2**24  # numbers of the one-hot rows, 64 MiB: beyond them PyTorch's own gradient of an embedding is used


class Projections:
    """Takes over `F.linear` and `F.embedding` of a model's parameters inside `forward()`; all else stays as it is.

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
        self._masters: list[Tensor] = []
        self._casts: dict[int, Tensor] = {}
        self._eyes: dict[int, Tensor] = {}

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Hold for one step's forward and backward passes; at the end every gradient is there for what follows."""
        self._uses.clear()
        if self._masters:
            torch._foreach_copy_(list(self._casts.values()), self._masters)
        yield
        if self._beside is not None:
            self._beside.join()

    def forward(self) -> contextlib.AbstractContextManager[object]:
        """Hold for a forward pass."""
        return _TakenOver(self)

    def use(self, weight: Tensor) -> None:
        """Take note of a use of a weight: only one that is used once has its gradient made beside the chain."""
        self._uses[id(weight)] += 1

    def cast(self, parameter: Tensor) -> Tensor:
        """Return a parameter as autocast's products take it, a copy that is renewed at each step; itself without autocast."""
        if not torch.is_autocast_enabled(self.device.type):
            return parameter.detach()
        if id(parameter) not in self._casts:
            self._masters.append(parameter.detach())
            self._casts[id(parameter)] = parameter.detach().to(torch.get_autocast_dtype(self.device.type))
        return self._casts[id(parameter)]

    def one_hot(self, tokens: Tensor, vocab_size: int) -> Tensor:
        """Return fp32 rows (*tokens, vocab_size)."""
        if vocab_size not in self._eyes:
            self._eyes[vocab_size] = torch.eye(vocab_size, device=tokens.device)
        return F.embedding(tokens, self._eyes[vocab_size])

    def aside(self, weight: Tensor, *made_of: Tensor) -> contextlib.AbstractContextManager[object]:
        """Compute towards a weight's gradient beside the chain where that is possible; what it is made of is kept."""
        if self._beside is None:
            return contextlib.nullcontext()
        if self._uses[id(weight)] > 1:  # autograd adds such a weight's gradients up as they come
            self._beside.join()
            return contextlib.nullcontext()
        return self._beside.fork(*made_of)


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
        if func is F.embedding and id(args[1]) in projections.own:
            projections.use(args[1])
            if args[0].dim() == 2 and args[0].numel() * args[1].shape[0] <= ONE_HOT:
                return _Embedding.apply(args[0], args[1], projections)  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)


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
        with ctx.projections.aside(weight, rows, inputs):
            dweight = _product(rows.t(), inputs, weight.dtype)
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
        with projections.aside(weight):
            ctx.save_for_backward(projections.one_hot(tokens, weight.shape[0]))
        ctx.weight, ctx.projections = weight, projections
        return F.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        with ctx.projections.aside(ctx.weight, dy):
            # a product a sequence, then their sum: one product over all positions would be slow, and no more exact
            dweight = torch.bmm(rows.transpose(1, 2), dy).sum(0)
        return None, dweight, None
