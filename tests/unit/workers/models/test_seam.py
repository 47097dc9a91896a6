"""Which models may have what lies between their layers taken over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from workers.models import build_model
from workers.models.seam import joins
from workers.specs import ModelSpec


class TakesAll(TorchFunctionMode):
    """Takes over whatever a model offers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return True if func is joins else func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("changed", "offered"),
    [({}, 2), ({"dropout": 0.1}, 0), ({"mlp_ratio": 2}, 0), ({"mixer": "h3"}, 0)],
)
def test_only_layers_with_nothing_else_between_them_are_offered(changed: dict[str, Any], offered: int) -> None:
    """Dropout and MLPs stand between a mixer's last projection and the next norm: joined layers would leave them out."""
    spec = ModelSpec.model_validate({"d_model": 8, "n_layer": 2, "d_state": 3, **changed})
    model, tokens = build_model(spec, 7), torch.zeros(1, 3, dtype=torch.int64)
    assert not model._open_mixers(tokens)  # where nobody takes them
    with TakesAll():
        assert len(model._open_mixers(tokens)) == offered
