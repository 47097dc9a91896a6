"""Names: what is known, what is near, and what another package adds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workers.errors import SpecError
from workers.models import LayerState, Mixer, build_model, register_inner, register_mixer, registry
from workers.models.s6 import S6
from workers.specs import ModelSpec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixer": "mambda"}, r"model.mixer is 'mambda'.*Did you mean 'mamba'\? Known: attention, h3, mamba, no-gate"),
        ({"inner": "s4"}, r"model.inner is 's4'.*Did you mean 's4d'\? Known: hyena, s4d, s6"),
        ({"mixer": "xyz"}, r"model.mixer is 'xyz', which is not registered. Known: attention, h3, mamba, no-gate"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(change: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_model(ModelSpec().model_copy(update=change), 5)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="the inner layer name 's6' is taken"):
        register_inner("s6")(S6)


def test_a_registered_mixer_is_built_from_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_mixers", dict(registry._mixers))

    @register_mixer("nothing")
    class Nothing(Mixer):
        def __init__(self, spec: ModelSpec) -> None:
            super().__init__()

        def forward(self, x: Tensor, state: LayerState | None = None, position: int = 0) -> Tensor:
            return torch.zeros_like(x)

        def step(self, x: Tensor, state: LayerState, position: int) -> Tensor:
            return torch.zeros_like(x)

        def allocate_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> LayerState:
            return {}

    model = build_model(ModelSpec().model_copy(update={"mixer": "nothing"}), 5)
    logits, _ = model.step(torch.tensor([1]), model.allocate_state(1))
    torch.testing.assert_close(logits, model(torch.tensor([[1]]))[:, 0])


def test_rope_needs_an_even_head() -> None:
    with pytest.raises(SpecError, match="d_model / n_heads must be even, got 3"):
        build_model(ModelSpec(mixer="attention", d_model=12, n_heads=4), 5)
