"""Logits equal Hugging Face's MambaForCausalLM on random weights in fp32, whoever wrote the weights and in either naming."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from workers.models import LanguageModel, build_model
from workers.models.interop import load_pretrained, save_pretrained, their_name
from workers.specs import ModelSpec

if TYPE_CHECKING:
    from transformers import MambaForCausalLM

VOCAB = 37
SIZES: dict[str, dict[str, Any]] = {
    "default": {},
    "uneven": {"d_model": 20, "n_layer": 3, "d_state": 5},  # no multiple of 16, so that the rank is rounded up
    "untied": {"d_model": 24, "tie_embeddings": False},
    "wide": {"d_model": 12, "expand": 3, "d_conv": 2, "dt_rank": 7, "d_state": 1},
    "eps": {"norm_eps": 1e-2, "tie_embeddings": False},
}


@pytest.fixture(scope="module", autouse=True)
def offline() -> None:
    """Keep transformers from the network; it reads the variables when it is first imported."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")


def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (2, 33), generator=torch.Generator().manual_seed(0))


def shake(model: torch.nn.Module) -> None:
    """Move every weight away from its initial value, so that none is 0 or 1 and none equals another layer's."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def ours_of(changes: dict[str, Any]) -> LanguageModel:
    model = build_model(ModelSpec.model_validate({"d_model": 16, "d_state": 4, **changes}), VOCAB)
    shake(model)
    return model.eval()


def theirs_of(changes: dict[str, Any]) -> MambaForCausalLM:
    from transformers import MambaConfig, MambaForCausalLM

    spec = ModelSpec.model_validate({"d_model": 16, "d_state": 4, **changes})
    config = MambaConfig(
        vocab_size=VOCAB,
        hidden_size=spec.d_model,
        num_hidden_layers=spec.n_layer,
        state_size=spec.d_state,
        expand=spec.expand,
        conv_kernel=spec.d_conv,
        time_step_rank=spec.dt_rank,
        layer_norm_epsilon=spec.norm_eps,
        tie_word_embeddings=spec.tie_embeddings,
    )
    model = MambaForCausalLM(config)
    shake(model)
    return model.eval()


def assert_alike(ours: LanguageModel, theirs: MambaForCausalLM) -> None:
    with torch.no_grad():
        expected = theirs(tokens(), use_cache=False).logits
        found = ours(tokens())
    assert expected.std() > 0.1  # logits that are all but equal would prove little
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_what_transformers_wrote_gives_the_same_logits_here(tmp_path: Path, name: str) -> None:
    theirs = theirs_of(SIZES[name])
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path).eval()
    assert_alike(ours, theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_what_is_saved_here_gives_the_same_logits_there(tmp_path: Path, name: str) -> None:
    from transformers import MambaForCausalLM

    ours = ours_of(SIZES[name])
    save_pretrained(ours, tmp_path, "hf")
    theirs, report = MambaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    left = {kind: names for kind, names in report.items() if names}
    assert not left, f"transformers reports {left}"
    assert_alike(ours, theirs.eval())


@pytest.mark.parametrize("name", [name for name in SIZES if name != "eps"])  # the original config has no epsilon
def test_the_original_naming_says_the_same(tmp_path: Path, name: str) -> None:
    """transformers renames the original's embedding when a state dict is loaded; nothing else is called otherwise."""
    ours, theirs = ours_of(SIZES[name]), theirs_of(SIZES[name])
    save_pretrained(ours, tmp_path, "official")
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert_alike(load_pretrained(tmp_path).eval(), theirs)


def test_decoding_token_by_token_gives_the_same_logits() -> None:
    """Ours from the recurrent state, theirs in parallel."""
    ours, theirs = ours_of(SIZES["uneven"]), theirs_of(SIZES["uneven"])
    with torch.no_grad():
        held = {their_name(name, "hf"): tensor for name, tensor in ours.state_dict().items()}
        for name, parameter in theirs.state_dict().items():
            parameter.copy_(held[name].reshape(parameter.shape))
        expected = theirs(tokens(), use_cache=False).logits
        state = ours.allocate_state(2, "cpu")
        steps = []
        for position in tokens().unbind(1):
            logits, state = ours.step(position, state)
            steps.append(logits)
    torch.testing.assert_close(torch.stack(steps, 1), expected, rtol=1e-4, atol=1e-5)
