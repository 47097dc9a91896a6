"""Counting parameters, and sorting them for the optimizer."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from workers.models.block import mlp_width
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
    norm = d_model * (2 if spec.norm == "layer" else 1)
    mlp = norm + d_model * mlp_width(spec) * (3 if spec.mlp == "swiglu" else 2) if spec.mlp_ratio else 0
    embeddings = vocab_size * d_model * (1 if spec.tie_embeddings else 2)
    layers = spec.layers()
    if spec.positions == "learned" and any(layer.mixer == "attention" for layer in layers):
        embeddings += spec.max_positions * d_model
    return sum(norm + _mixer(layer) + mlp for layer in layers) + norm + embeddings


def _mixer(spec: ModelSpec) -> int:
    d_model = spec.d_model
    match spec.mixer:
        case "mamba":
            return _mamba(spec)
        case "attention":
            return 4 * d_model**2 + 4 * d_model
        case "no-gate":
            return d_model**2 + _inner(spec, d_model)
        case "h3":
            projections = 4 * d_model**2 + (4 * d_model if spec.h3_bias else 0)
            shift = d_model * ((spec.h3_shift_state if spec.h3_shift == "ssm" else spec.d_conv) + 1)
            return projections + shift * (3 if spec.h3_shift == "conv-qkv" else 1) + _inner(spec, d_model)


def _mamba(spec: ModelSpec) -> int:
    d_inner = spec.expand * spec.d_model
    projections = spec.d_model * d_inner * (3 if spec.gate else 2)
    convolution = d_inner * (spec.d_conv + 1) if spec.d_conv else 0
    return projections + convolution + _inner(spec, d_inner)


def _inner(spec: ModelSpec, width: int) -> int:
    skip = width if spec.skip else 0
    match spec.inner:
        case "s6":
            return skip + _s6(spec, width)
        case "s4d":  # dt; A and C: d_state reals or d_state / 2 complex numbers each
            return skip + width + (width + (1 if spec.s4d_tied else width)) * spec.d_state
        case "hyena":
            return skip + _hyena(spec, width)


def _s6(spec: ModelSpec, width: int) -> int:
    parts = 2 if spec.a_init == "complex" else 1
    rank = math.ceil(spec.d_model / 16) if spec.dt_rank == "auto" else spec.dt_rank
    dt = width + (2 * width * rank if spec.selective_dt else 0)
    return dt + width * spec.d_state * 3 * parts  # A; B and C cost the same projected or constant


def _hyena(spec: ModelSpec, width: int) -> int:
    hidden = spec.hyena_width
    positions = spec.hyena_l_max * spec.hyena_emb if spec.hyena_positions == "learned" else 0
    network = (spec.hyena_emb + 1) * hidden + spec.hyena_depth * (hidden + 1) * hidden + hidden * width
    return positions + network + hidden  # the frequencies of the sines
