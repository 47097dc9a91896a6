"""Products of several models' small weights, each whole in one kernel; see the README."""

from kernels.stacked_products.api import (
    add_up,
    embed,
    embedding_gradient,
    serves,
    serves_through,
    serves_tokens,
    spread,
    through,
    through_gradient,
    weight_gradient,
)

__all__ = [
    "add_up",
    "embed",
    "embedding_gradient",
    "serves",
    "serves_through",
    "serves_tokens",
    "spread",
    "through",
    "through_gradient",
    "weight_gradient",
]
