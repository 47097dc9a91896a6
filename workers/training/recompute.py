"""Activation checkpointing: what a block's backward needs is computed again instead of being kept from the forward pass.

| `train.activation_checkpointing` | kept of each block | computed again |
| --- | --- | --- |
| `off` | everything | nothing |
| `block` | its two inputs | the whole block: about a third more work a step |
| `selective` | its two inputs and the results of its matrix products | all but the products |

The second pass is the first one bit for bit, so the gradients are those without it. Dropout draws anew from the random state
that the first pass began with; a CUDA graph cannot hold that state, so such a run's steps are eager.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from workers.models.block import Block
from workers.models.registry import LayerState

Mode = Literal["off", "block", "selective"]
Contexts = tuple[contextlib.AbstractContextManager[object], contextlib.AbstractContextManager[object]]

_PRODUCTS = frozenset(
    {
        torch.ops.aten.mm.default,
        torch.ops.aten.mm.dtype,
        torch.ops.aten.addmm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten.baddbmm.default,
    }
)


class Recomputation:
    """Calls a model's blocks so that their activations are computed again in the backward pass.

    Args:
        mode: `block` or `selective`.
        random: whether blocks draw random numbers.
        again: makes the context of a second pass; what the first pass ran in beside autocast, which PyTorch restores.
    """

    def __init__(
        self,
        mode: Mode,
        *,
        random: bool,
        again: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self._mode, self._random, self._again = mode, random, again

    def __call__(
        self, block: Block, added: Tensor, residual: Tensor | None, state: LayerState | None, position: int
    ) -> tuple[Tensor, Tensor]:
        """Map what the block maps."""
        if state is not None or not torch.is_grad_enabled():
            return block(added, residual, state, position)  # type: ignore[no-any-return]
        return checkpoint(  # type: ignore[no-any-return]
            block,
            added,
            residual,
            state,
            position,
            use_reentrant=False,
            preserve_rng_state=self._random,
            context_fn=self._contexts,
        )

    def _contexts(self) -> Contexts:
        if self._mode == "block":
            return contextlib.nullcontext(), self._again()
        first, second = create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]
        return first, _both(second, self._again())


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:  # noqa: ARG001
    return CheckpointPolicy.MUST_SAVE if operation in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE


@contextlib.contextmanager
def _both(outer: Any, inner: Any) -> Any:
    with outer, inner:
        yield
