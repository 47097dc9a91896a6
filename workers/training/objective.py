"""A model with its loss: what a step differentiates."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from workers.models import LanguageModel
from workers.tasks import IGNORE
from workers.training import row_loss
from workers.training.fused_loss import Choice, Loss, chunked_loss, liger_loss
from workers.training.projections import Projections


class Objective(nn.Module):
    """Maps tokens and targets to their loss, the logits of all positions at once or a chunk of them at a time.

    Args:
        model: gives logits (batch, seqlen, vocab_size); a `LanguageModel` where the loss is fused.
        choice: how the loss is computed.
        projections: what the model's products go through, if anything; holds the head's weight as they take it.
    """

    def __init__(self, model: nn.Module, choice: Choice, projections: Projections | None) -> None:
        super().__init__()
        self.model, self._choice, self._projections = model, choice, projections
        if choice.fused and projections is not None:
            assert isinstance(model, LanguageModel)
            projections.share(model.head.weight)  # autograd adds the loss's gradient to that of a tied embedding

    def forward(self, inputs: Tensor, targets: Tensor, scale: Tensor, *, measure: bool) -> Loss:
        """Return the loss of (batch, seqlen) tokens, each supervised position weighing `scale` where it is differentiated.

        The number of those that are right means nothing unless it is measured.
        """
        targets = targets.flatten()
        if not self._choice.fused:
            logits: Tensor = self.model(inputs).flatten(0, 1)
            if row_loss.serves(logits):
                apart = None if self._projections is None else self._projections.apart
                slopes, total, hits = row_loss.row_loss(logits, targets, scale, apart, measure=measure)
                return Loss(logits, slopes, total, hits)
            # the mean's own kernel goes through the positions in one block
            total = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="none").sum()
            done = total.detach()
            # IGNORE is no token: such positions are never right
            return Loss(total, scale, done, (logits.detach().argmax(-1) == targets).sum() if measure else done)
        assert isinstance(self.model, LanguageModel)
        hidden, weight = self.model.features(inputs).flatten(0, 1), self.model.head.weight
        if self._choice.name == "liger-kernel":
            return liger_loss(hidden, weight, targets, scale, measure=measure)
        taken = None if self._projections is None else self._projections.cast(weight)
        return chunked_loss(hidden, weight, targets, scale, measure=measure, taken=taken)
