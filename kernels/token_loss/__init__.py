"""Cross-entropy of rows of logits with its gradient, in one pass."""

from kernels.token_loss.api import TokenLoss, token_loss

__all__ = ["TokenLoss", "token_loss"]
