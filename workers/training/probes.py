"""Looks inside the S6 layers while they train: how far they step, how long they remember, how full and how open they are.

Every `train.probe_every` steps the model reads one held-out batch, always the same, outside the steps and whatever they are
captured in: no parameter, no random state and no metric of training depends on it. For layer L, counted from 0:

| metric | meaning |
| --- | --- |
| `probe/dt_p05@L`, `dt_p50`, `dt_p95` | quantiles of dt = softplus(dt_raw + dt_bias) over tokens and channels |
| `probe/half_life_p05@L`, `_p50`, `_p95` | tokens that halve a state, ln 2 / (-A dt) at its channel's median dt; over all states |
| `probe/state_rms@L` | root mean square of the state h after the last token |
| `probe/gate_closed@L`, `probe/gate_open@L` | share of the gate's sigmoid(z) below 0.05, and above 0.95 |

A state decays by exp(A dt) a token, so n tokens halve it where exp(n A dt) = 1/2. A complex A decays by its real part. Each
of a layer's d_inner channels has d_state states; the quantiles of half-lives are over all of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workers.models import LanguageModel
from workers.models.s6 import S6
from workers.specs import TrainSpec
from workers.tasks import Task
from workers.training.context import JSON
from workers.training.determinism import EVALUATION_SEED
from workers.training.precision import Placement

MOST_TOKENS = 8192  # of the batch that is read
MOST_VALUES = 1_000_000  # of which quantiles are taken; more are thinned out evenly
QUANTILES = ((0.05, "p05"), (0.5, "p50"), (0.95, "p95"))
CLOSED, OPEN = 0.05, 0.95


class Probes:
    """Measures one model as it trains. Making it draws the batch; nothing else is kept."""

    def __init__(self, model: LanguageModel, task: Task, train: TrainSpec, placement: Placement) -> None:
        self.every, self.last = train.probe_every, train.steps
        self._model, self._placement = model, placement
        self._layers = probed_layers(model) if self.every else {}
        size = max(1, min(train.batch_size, MOST_TOKENS // task.seqlen))
        self._tokens: Tensor | None = None
        if self._layers:
            self._tokens = next(iter(task.evaluation(EVALUATION_SEED, 1, size, placement.device))).inputs

    def due(self, step: int) -> bool:
        """Say whether to measure after a step: the first, every so many, and the last."""
        return bool(self._layers) and (step in (1, self.last) or step % self.every == 0)

    def facts(self) -> dict[str, JSON]:
        """Return which layers are measured and what the others are, and on how much."""
        others: dict[str, JSON] = {
            str(index): spec.mixer if spec.mixer == "attention" else f"{spec.mixer}/{spec.inner}"
            for index, spec in enumerate(self._model.spec.layers()) if index not in self._layers
        }  # fmt: skip
        shape = (0, 0) if self._tokens is None else self._tokens.shape
        return {"every": self.every, "layers": list(self._layers), "without": others,
                "sequences": shape[0], "seqlen": shape[1]}  # fmt: skip

    def measure(self) -> dict[str, float]:
        """Return the metrics of the model as it is now. It is left in the mode it was in, and without hooks."""
        assert self._tokens is not None
        measured: dict[str, float] = {}
        was_training = self._model.training
        hooks = [layer.register_forward_pre_hook(_reader(index, measured)) for index, layer in self._layers.items()]
        self._model.eval()
        try:
            with torch.no_grad(), self._placement.autocast():
                self._model(self._tokens)
        finally:
            for hook in hooks:
                hook.remove()
            self._model.train(was_training)
        return measured


def probed_layers(model: LanguageModel) -> dict[int, S6]:
    """Return the model's S6 layers by their place."""
    found = {}
    for index, block in enumerate(model.blocks):
        inner = getattr(block.mixer, "inner", None)
        if isinstance(inner, S6):
            found[index] = inner
    return found


def _reader(index: int, measured: dict[str, float]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Return a hook that measures what a layer is given."""

    def read(layer: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(layer, S6)
        x, z = given[0], given[1]
        for name, value in layer_metrics(layer, x, z).items():
            measured[f"probe/{name}@{index}"] = value

    return read


def layer_metrics(layer: S6, x: Tensor, z: Tensor | None) -> Mapping[str, float]:
    """Return what can be said of an S6 layer from its input x (batch, seqlen, d_inner) and its gate z, where it has one."""
    dt = layer.step_sizes(x)
    decay = -layer.transition().real.double()
    typical = dt.reshape(-1, dt.shape[-1]).double().median(dim=0).values
    half_lives = math.log(2) / (decay * typical[:, None])
    found = {**_quantiles("dt", dt), **_quantiles("half_life", half_lives)}
    state = layer.allocate_state(len(x), x.device)
    layer.forward(x, z, state)  # not through the hooks; other kinds of layers may have no state to hand on
    found["state_rms"] = state["ssm"].abs().double().square().mean().sqrt().item()
    if z is not None:
        gate = torch.sigmoid(z.float())
        found["gate_closed"] = (gate < CLOSED).double().mean().item()
        found["gate_open"] = (gate > OPEN).double().mean().item()
    return found


def _quantiles(name: str, values: Tensor) -> dict[str, float]:
    flat = values.double().flatten()
    thinned = flat[:: -(-flat.numel() // MOST_VALUES)]
    levels = torch.tensor([level for level, _ in QUANTILES], dtype=torch.float64, device=flat.device)
    found = torch.quantile(thinned, levels).tolist()
    return {f"{name}_{label}": value for (_, label), value in zip(QUANTILES, found, strict=True)}
