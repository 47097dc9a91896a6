"""Released layouts: names, round trips, and a forward pass written from the released code's names alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from workers.errors import CheckpointError
from workers.models import LanguageModel, build_model
from workers.models.interop import Layout, load_pretrained, save_pretrained
from workers.specs import ModelSpec

LAYOUTS: list[Layout] = ["official", "hf"]
VOCAB = 24


def make_model(**changes: Any) -> LanguageModel:
    torch.manual_seed(0)
    model = build_model(ModelSpec.model_validate({"d_model": 16, "d_state": 4, **changes}), VOCAB)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "changes", [{}, {"tie_embeddings": False}, {"expand": 1, "d_conv": 3, "dt_rank": 5, "n_layer": 3}], ids=str
)
def test_a_model_returns_as_it_was(tmp_path: Path, layout: Layout, changes: dict[str, Any]) -> None:
    model = make_model(**changes)
    save_pretrained(model, tmp_path, layout)
    again = load_pretrained(tmp_path)
    torch.testing.assert_close(again(tokens()), model(tokens()), rtol=0, atol=0)
    assert (again.head.weight is again.embedding.weight) == model.spec.tie_embeddings
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in again.parameters())


def released_forward(weights: dict[str, Tensor], inputs: Tensor, embedding: str) -> Tensor:
    """Logits by the formulas and names of `mamba_simple.py` and `selective_scan_ref`, position by position."""
    w = {name: tensor.double() for name, tensor in weights.items()}

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight

    stream = w[embedding][inputs]
    for layer in range(2):
        at = f"backbone.layers.{layer}."
        x, z = (norm(stream, w[f"{at}norm.weight"]) @ w[f"{at}mixer.in_proj.weight"].t()).chunk(2, dim=-1)
        kernel = w[f"{at}mixer.conv1d.weight"]
        convolved = F.conv1d(x.transpose(1, 2), kernel, w[f"{at}mixer.conv1d.bias"], padding=3, groups=len(kernel))
        x = F.silu(convolved[..., : x.shape[1]]).transpose(1, 2)
        dt, B, C = (x @ w[f"{at}mixer.x_proj.weight"].t()).tensor_split([1, 5], dim=-1)
        delta = F.softplus(dt @ w[f"{at}mixer.dt_proj.weight"].t() + w[f"{at}mixer.dt_proj.bias"])
        A = -w[f"{at}mixer.A_log"].exp()
        state = torch.zeros(len(x), *A.shape, dtype=torch.float64)
        outputs = []
        for t in range(x.shape[1]):
            state = (delta[:, t, :, None] * A).exp() * state + (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
            outputs.append((state * C[:, t, None]).sum(-1) + w[f"{at}mixer.D"] * x[:, t])
        stream = stream + (torch.stack(outputs, 1) * F.silu(z)) @ w[f"{at}mixer.out_proj.weight"].t()
    return norm(stream, w["backbone.norm_f.weight"]) @ w.get("lm_head.weight", w[embedding]).t()


@pytest.mark.parametrize(
    ("layout", "embedding"), [("official", "backbone.embedding.weight"), ("hf", "backbone.embeddings.weight")]
)
def test_the_files_hold_what_the_released_code_reads(tmp_path: Path, layout: Layout, embedding: str) -> None:
    model = make_model()
    save_pretrained(model, tmp_path, layout)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights["backbone.layers.0.mixer.conv1d.weight"].shape == (32, 1, 4)
    assert ("lm_head.weight" in weights) == (layout == "official")
    expected = released_forward(weights, tokens(), embedding)
    torch.testing.assert_close(model(tokens()).double(), expected, rtol=1e-4, atol=1e-5)


def test_shards_and_the_originals_pickle_are_read(tmp_path: Path) -> None:
    model = make_model()
    save_pretrained(model, tmp_path, "hf")
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(weights)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: weights[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in halves.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load_pretrained(tmp_path)(tokens()), model(tokens()))
    (tmp_path / "model.safetensors.index.json").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert torch.equal(load_pretrained(tmp_path)(tokens()), model(tokens()))


def test_the_released_config_is_enough(tmp_path: Path) -> None:
    """state-spaces/mamba-130m's own config.json names no state size, rank or tying."""
    model = make_model(d_state=16)
    save_pretrained(model, tmp_path, "official")
    config = {
        "d_model": 16,
        "n_layer": 2,
        "vocab_size": 21,
        "ssm_cfg": {},
        "rms_norm": True,
        "pad_vocab_size_multiple": 8,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = load_pretrained(tmp_path)
    assert again.vocab_size == VOCAB
    assert again.head.weight is again.embedding.weight
    assert torch.equal(again(tokens()), model(tokens()))


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("official", {"ssm_cfg": {"layer": "Mamba2"}}, "has a Mamba-2 layer"),
        ("official", {"attn_layer_idx": [1]}, "has attention layers"),
        ("official", {"d_intermediate": 64}, "has MLPs"),
        ("hf", {"use_bias": True}, "has biases of projections"),
        ("hf", {"use_conv_bias": False}, "has a convolution without bias"),
        ("hf", {"hidden_size": "wide"}, "not the config of a Mamba model"),
        ("hf", {"tie_word_embeddings": False}, "tensor lm_head.weight is missing"),
        ("hf", {"num_hidden_layers": 3}, "tensor backbone.layers.2.norm.weight is missing"),
        ("hf", {"num_hidden_layers": 1}, "tensors that a Mamba-1 model of this config has not: backbone.layers.1"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, layout: Layout, changes: dict[str, Any], message: str) -> None:
    save_pretrained(make_model(), tmp_path, layout)
    change_config(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(tmp_path)


def test_a_folder_without_weights_or_with_damaged_ones_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json: cannot be read"):
        load_pretrained(tmp_path)
    save_pretrained(make_model(), tmp_path, "hf")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:100])
    with pytest.raises(CheckpointError, match="its weights cannot be read"):
        load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds none of model.safetensors"):
        load_pretrained(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not the weights of a Mamba model"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"inner": "s4d"}, "model.inner is 's4d'"),
        ({"gate": False}, "model.gate is False"),
        ({"selective_b": False}, "model.selective_b is False"),
        ({"a_init": "complex"}, "model.a_init is 'complex'"),
        ({"mlp_ratio": 2}, "model.mlp_ratio is 2"),
        ({"pattern": "mamba,attention", "n_heads": 4}, "model.pattern is"),
        ({"d_conv": 0}, "must not be 0"),
    ],
)
def test_what_the_layouts_cannot_hold_is_not_saved(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        save_pretrained(make_model(**changes), tmp_path, "hf")
    assert not list(tmp_path.iterdir())


def test_other_initial_values_are_no_hindrance(tmp_path: Path) -> None:
    model = make_model(a_init="random", norm="layer")
    save_pretrained(model, tmp_path, "official")
    assert torch.equal(load_pretrained(tmp_path)(tokens()), model(tokens()))
    with pytest.raises(CheckpointError, match="RMSNorm alone"):
        save_pretrained(model, tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()


def test_an_epsilon_that_the_original_cannot_name_is_not_dropped(tmp_path: Path) -> None:
    model = make_model(norm_eps=1e-2)
    with pytest.raises(CheckpointError, match="norm_eps is 0.01"):
        save_pretrained(model, tmp_path / "official", "official")
    save_pretrained(model, tmp_path / "hf", "hf")
    assert torch.equal(load_pretrained(tmp_path / "hf")(tokens()), model(tokens()))
