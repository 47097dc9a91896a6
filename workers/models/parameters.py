"""Counting parameters, and sorting them for the optimizer."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from workers.specs import ModelSpec


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return groups for a torch optimizer: every parameter once, in the model's order within its group.

    Matrices decay; vectors (norms, biases, D) do not, nor do the parameters that a module lists in its class attribute
    `no_weight_decay`. A module's `max_lr`, a dict from parameter names, puts its parameters into groups with that key,
    which the training loop obeys as a ceiling of the learning rate.
    """
    undecayed: set[int] = set()
    ceilings: dict[int, float] = {}
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        limits: dict[str, float] = getattr(module, "max_lr", {})
        undecayed |= {id(own[name]) for name in getattr(module, "no_weight_decay", ()) if name in own}
        ceilings |= {id(own[name]): limit for name, limit in limits.items() if name in own}
    groups: dict[tuple[bool, float | None], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.dim() > 1 and id(parameter) not in undecayed
        ceiling = ceilings.get(id(parameter))
        group = groups.setdefault((decays, ceiling), {"params": [], "weight_decay": weight_decay if decays else 0.0})
        group["params"].append(parameter)
        if ceiling is not None:
            group["max_lr"] = ceiling
    return list(groups.values())


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers the model learns; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def expected_parameters(spec: ModelSpec, vocab_size: int) -> int:
    """Return the size of a model in closed form, without building it."""
    d_model = spec.d_model
    mixer = _attention(d_model) if spec.mixer == "attention" else _mamba(spec)
    mlp = d_model + 2 * spec.mlp_ratio * d_model**2 if spec.mlp_ratio else 0
    embeddings = vocab_size * d_model * (1 if spec.tie_embeddings else 2)
    return spec.n_layer * (d_model + mixer + mlp) + d_model + embeddings


def _attention(d_model: int) -> int:
    return 4 * d_model**2 + 4 * d_model


def _mamba(spec: ModelSpec) -> int:
    d_inner = spec.expand * spec.d_model
    projections = spec.d_model * d_inner * (3 if spec.gate else 2)
    convolution = d_inner * (spec.d_conv + 1) if spec.d_conv else 0
    inner = _s4d(spec, d_inner) if spec.inner == "s4d" else _s6(spec, d_inner)
    return projections + convolution + inner + (d_inner if spec.skip else 0)


def _s4d(spec: ModelSpec, d_inner: int) -> int:
    return d_inner + d_inner * spec.d_state * 2  # dt; A and C: d_state reals or d_state / 2 complex numbers each


def _s6(spec: ModelSpec, d_inner: int) -> int:
    parts = 2 if spec.a_init == "complex" else 1
    rank = math.ceil(spec.d_model / 16) if spec.dt_rank == "auto" else spec.dt_rank
    dt = d_inner + (2 * d_inner * rank if spec.selective_dt else 0)
    return dt + d_inner * spec.d_state * 3 * parts  # A; B and C cost the same projected or constant
