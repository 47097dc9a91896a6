"""Every mixer, inner layer and switch of a model, as specs small enough for float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workers.models import LanguageModel, build_model
from workers.specs import ModelSpec

VOCAB = 11

SWITCHES: dict[str, dict[str, Any]] = {
    "mamba": {},
    "no-gate": {"gate": False},
    "no-skip": {"skip": False},
    "no-conv": {"d_conv": 0},
    "conv-2": {"d_conv": 2},
    "dt-rank-0": {"dt_rank": 0},
    "dt-rank-3": {"dt_rank": 3},
    "constant-dt": {"selective_dt": False},
    "constant-b": {"selective_b": False},
    "constant-c": {"selective_c": False},
    "constant-dt-b-c": {"selective_dt": False, "selective_b": False, "selective_c": False},
    "a-half": {"a_init": "half"},
    "a-random": {"a_init": "random"},
    "a-complex": {"a_init": "complex"},
    "a-complex-constant": {"a_init": "complex", "selective_dt": False, "selective_b": False, "selective_c": False},
    "expand-1": {"expand": 1},
    "s4d-lin": {"inner": "s4d"},
    "s4d-inv": {"inner": "s4d", "s4d_init": "inv"},
    "s4d-real": {"inner": "s4d", "s4d_init": "real"},
    "s4d-recurrence": {"inner": "s4d", "s4d_mode": "recurrence"},
    "s4d-bare": {"inner": "s4d", "s4d_init": "real", "s4d_mode": "recurrence", "gate": False, "skip": False},
    "attention-rope": {"mixer": "attention"},
    "attention-none": {"mixer": "attention", "positions": "none"},
    "attention-sinusoidal": {"mixer": "attention", "positions": "sinusoidal"},
    "mlp": {"mlp_ratio": 2},
    "attention-mlp": {"mixer": "attention", "mlp_ratio": 4},
    "untied": {"tie_embeddings": False},
    "constant-normal": {"selective_b": False, "selective_c": False, "constant_init": "normal"},
    "s4d-tied": {"inner": "s4d", "s4d_tied": True},
    "s4d-tied-real": {"inner": "s4d", "s4d_tied": True, "s4d_init": "real"},
    "s4d-legs": {"inner": "s4d", "s4d_init": "legs"},
    "hyena": {"inner": "hyena", "hyena_l_max": 32, "hyena_emb": 5, "hyena_width": 8},
    "hyena-learned": {
        "inner": "hyena",
        "hyena_l_max": 32,
        "hyena_emb": 3,
        "hyena_width": 8,
        "hyena_positions": "learned",
    },
    "hyena-floor": {"inner": "hyena", "hyena_l_max": 8, "hyena_emb": 3, "hyena_depth": 0, "hyena_decay_floor": 0.1},
    "no-gate-s6": {"mixer": "no-gate"},
    "no-gate-s4d": {"mixer": "no-gate", "inner": "s4d"},
    "h3-s4d": {"mixer": "h3", "inner": "s4d"},
    "h3-s6": {"mixer": "h3", "h3_shift_state": 3, "skip": False},
    "h3-no-bias": {"mixer": "h3", "inner": "s4d", "h3_bias": False, "h3_shift_state": 5, "s4d_tied": True},
    "h3-conv": {"mixer": "h3", "inner": "s4d", "s4d_init": "real", "h3_shift": "conv"},
    "h3-hyena": {"mixer": "h3", "inner": "hyena", "h3_shift": "conv-qkv", "d_conv": 3, "hyena_l_max": 64},
    "attention-xpos": {"mixer": "attention", "positions": "xpos"},
    "attention-learned": {"mixer": "attention", "positions": "learned", "max_positions": 32},
    "swiglu": {"mixer": "attention", "mlp_ratio": 4, "mlp": "swiglu"},
    "layer-norm": {"norm": "layer", "mlp_ratio": 1},
    "hybrid": {"pattern": "mamba*2,attention", "n_layer": 3, "positions": "learned", "max_positions": 32},
    "hybrid-inners": {"pattern": "h3/s4d, mamba/hyena", "hyena_l_max": 16, "n_layer": 4},
}

every_switch = pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)


def make_spec(switches: dict[str, Any]) -> ModelSpec:
    """Return a spec of two narrow layers with the switches set."""
    return ModelSpec.model_validate({"d_model": 16, "d_state": 4, "n_heads": 4, **switches})


def make_model(switches: dict[str, Any], seed: int = 0) -> LanguageModel:
    """Return a float64 model whose every parameter has been moved off its initial value, constants too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(make_spec(switches), VOCAB).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def make_tokens(batch: int, seqlen: int, seed: int = 0) -> torch.Tensor:
    """Return random tokens (batch, seqlen)."""
    return torch.randint(0, VOCAB, (batch, seqlen), generator=torch.Generator().manual_seed(seed))
