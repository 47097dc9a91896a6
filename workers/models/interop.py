"""Weights of the released Mamba models in and out: the original naming (state-spaces/mamba-*) and Hugging Face's (-hf).

Both keep a folder with `config.json` and the weights, in `model.safetensors`, in shards that `model.safetensors.index.json`
lists, or in the original's `pytorch_model.bin`. Per layer, the names are these, after `backbone.layers.<i>.` there:

    norm.weight          norm.weight            mixer.x_proj.weight     mixer.inner.x_proj.weight
    mixer.in_proj.weight mixer.in_proj.weight   mixer.dt_proj.weight    mixer.inner.dt_weight
    mixer.conv1d.weight  mixer.conv_weight      mixer.dt_proj.bias      mixer.inner.dt_bias
    mixer.conv1d.bias    mixer.conv_bias        mixer.A_log, mixer.D    mixer.inner.A_log, mixer.inner.D

The convolution's weight has a dimension of size 1 in the middle there. Source: the files of state-spaces/mamba-130m and
mamba-130m-hf on the Hugging Face hub, as `mamba_simple.py` and `modeling_mamba.py` write them.
"""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from workers.errors import CheckpointError
from workers.models.lm import LanguageModel, build_model
from workers.specs import ModelSpec

Layout = Literal["official", "hf"]
WEIGHTS, SHARDS, PICKLED, CONFIG = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "config.json",
)
_ORIGINAL_EPS = 1e-5
_PAD_MULTIPLE = 8  # the original rounds its vocabulary up to it; here the vocabulary is as the weights have it

_OUTER = {"embedding.weight": "backbone.embedding.weight", "head.weight": "lm_head.weight"}
_NORM = {"norm.weight": "norm.weight", "norm.bias": "norm.bias"}
_LAYER = {
    **_NORM,
    "mixer.in_proj.weight": "mixer.in_proj.weight",
    "mixer.out_proj.weight": "mixer.out_proj.weight",
    "mixer.conv_weight": "mixer.conv1d.weight",
    "mixer.conv_bias": "mixer.conv1d.bias",
    "mixer.inner.x_proj.weight": "mixer.x_proj.weight",
    "mixer.inner.dt_weight": "mixer.dt_proj.weight",
    "mixer.inner.dt_bias": "mixer.dt_proj.bias",
    "mixer.inner.A_log": "mixer.A_log",
    "mixer.inner.D": "mixer.D",
}


def load_pretrained(folder: Path) -> LanguageModel:
    """Return the model in a folder of either layout, in fp32.

    Raises:
        CheckpointError: files are missing or damaged, or the model is of a kind that cannot be held (it is named).
    """
    config = _read_config(folder / CONFIG)
    tensors = _read_weights(folder)
    layout: Layout = "hf" if "backbone.embeddings.weight" in tensors else "official"
    embedding = tensors.get(their_name("embedding.weight", layout))
    if embedding is None:
        raise CheckpointError(
            f"{folder}: no tensor backbone.embedding(s).weight: these are not the weights of a Mamba model"
        )
    spec = spec_of_config(config, layout, str(folder / CONFIG))
    tied = spec.tie_embeddings and torch.equal(tensors.get("lm_head.weight", embedding), embedding)
    with torch.device("meta"):
        model = build_model(spec.model_copy(update={"tie_embeddings": tied}), len(embedding))
    ours = {
        name: _ours(name, tensors, layout, folder)
        for name in model.state_dict()
        if not (tied and name == "head.weight")
    }
    left = set(tensors) - {their_name(name, layout) for name in model.state_dict()}
    if left:
        raise CheckpointError(
            f"{folder}: tensors that a Mamba-1 model of this config has not: {', '.join(sorted(left)[:5])}"
        )
    model.load_state_dict(ours, assign=True, strict=not tied)
    if tied:
        model.head.weight = model.embedding.weight
    return model


def save_pretrained(model: LanguageModel, folder: Path, layout: Layout) -> None:
    """Write a model's weights (fp32) and config into a folder, as either layout has them.

    Raises:
        CheckpointError: the model is no released Mamba-1: the layouts have no names for what differs.
    """
    spec = model.spec
    _check_plain(spec)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "head.weight" and spec.tie_embeddings and layout == "hf":
            continue  # Hugging Face keeps a tied tensor once
        value = tensor.detach().float().cpu()
        value = value[:, None] if name.endswith("conv_weight") else value
        tensors[their_name(name, layout)] = value.clone().contiguous()
    config = _hf_config(spec, model.vocab_size) if layout == "hf" else _official_config(spec, model.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def their_name(name: str, layout: Layout) -> str:
    """Return what a parameter of ours is called in a layout. A KeyError means that it has no name there."""
    if name in _OUTER:
        return "backbone.embeddings.weight" if (name, layout) == ("embedding.weight", "hf") else _OUTER[name]
    if name in _NORM:
        return name.replace("norm.", "backbone.norm_f.")
    blocks, index, rest = name.split(".", 2)
    assert blocks == "blocks"
    return f"backbone.layers.{index}.{_LAYER[rest]}"


def spec_of_config(config: dict[str, Any], layout: Layout, source: str) -> ModelSpec:
    """Return the spec that a `config.json` describes.

    Raises:
        CheckpointError: a kind of model that is not Mamba-1 as released, or a config without the sizes.
    """
    ssm = config.get("ssm_cfg") or {}
    refused = {
        "a Mamba-2 layer": ssm.get("layer", "Mamba1") != "Mamba1" or config.get("model_type", "mamba") != "mamba",
        "attention layers": bool(config.get("attn_layer_idx")),
        "MLPs (d_intermediate)": bool(config.get("d_intermediate")),
        "biases of projections": bool(ssm.get("bias") or config.get("use_bias")),
        "a convolution without bias": not ssm.get("conv_bias", config.get("use_conv_bias", True)),
    }
    found = [kind for kind, present in refused.items() if present]
    if found:
        raise CheckpointError(
            f"{source}: has {' and '.join(found)}, which cannot be loaded: only Mamba-1 as released can"
        )
    official = layout == "official"
    sizes = config if not official else {"layer_norm_epsilon": _ORIGINAL_EPS, **ssm, **config}
    names = {
        "d_model": "d_model" if official else "hidden_size",
        "n_layer": "n_layer" if official else "num_hidden_layers",
        "d_state": "d_state" if official else "state_size",
        "d_conv": "d_conv" if official else "conv_kernel",
        "expand": "expand",
        "dt_rank": "dt_rank" if official else "time_step_rank",
        "norm_eps": "layer_norm_epsilon",
    }
    fields = {ours: sizes[theirs] for ours, theirs in names.items() if theirs in sizes}
    fields["norm"] = "rms" if config.get("rms_norm", True) else "layer"
    fields["tie_embeddings"] = config.get("tie_embeddings" if official else "tie_word_embeddings", True)
    try:
        return ModelSpec.model_validate({"d_model": -1, "n_layer": -1, **fields})  # neither size has a default here
    except ValueError as error:
        raise CheckpointError(f"{source}: not the config of a Mamba model: {error}") from error


def _check_plain(spec: ModelSpec) -> None:
    plain = ModelSpec(
        d_model=spec.d_model,
        n_layer=spec.n_layer,
        d_state=spec.d_state,
        d_conv=spec.d_conv,
        expand=spec.expand,
        dt_rank=spec.dt_rank,
        norm=spec.norm,
        norm_eps=spec.norm_eps,
        tie_embeddings=spec.tie_embeddings,
    )
    without_weights = ("implementation", "dropout", "dt_min", "dt_max")  # these leave no trace in the weights' names
    unused = [name for name in ModelSpec.model_fields if name.startswith(("h3_", "hyena_", "s4d_"))]
    unused += ["n_heads", "positions", "max_positions", "mlp", "constant_init"]
    for name in ModelSpec.model_fields:
        if name in without_weights or name in unused:
            continue
        value, expected = getattr(spec, name), getattr(plain, name)
        if name == "a_init" and value != "complex":
            continue
        if value != expected:
            raise CheckpointError(
                f"model.{name} is {value!r}: the released layouts hold Mamba-1 as released, {expected!r} alone. Keep the "
                "run's own checkpoint."
            )
    if spec.d_conv == 0 or spec.dt_rank == 0:
        raise CheckpointError("model.d_conv and model.dt_rank must not be 0 in the released layouts")


def _official_config(spec: ModelSpec, vocab_size: int) -> dict[str, Any]:
    if spec.norm_eps != _ORIGINAL_EPS:
        raise CheckpointError(
            f"model.norm_eps is {spec.norm_eps}: the original's config has no place for it and means {_ORIGINAL_EPS}"
        )
    return {
        "d_model": spec.d_model,
        "d_intermediate": 0,
        "n_layer": spec.n_layer,
        "vocab_size": vocab_size,
        "ssm_cfg": {
            "layer": "Mamba1",
            "d_state": spec.d_state,
            "d_conv": spec.d_conv,
            "expand": spec.expand,
            "dt_rank": _rank(spec),
        },
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": spec.norm == "rms",
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": _PAD_MULTIPLE if vocab_size % _PAD_MULTIPLE == 0 else 1,
        "tie_embeddings": spec.tie_embeddings,
    }


def _hf_config(spec: ModelSpec, vocab_size: int) -> dict[str, Any]:
    if spec.norm != "rms":
        raise CheckpointError("model.norm is 'layer': Hugging Face's Mamba has RMSNorm alone")
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "vocab_size": vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": spec.expand * spec.d_model,
        "num_hidden_layers": spec.n_layer,
        "state_size": spec.d_state,
        "expand": spec.expand,
        "conv_kernel": spec.d_conv,
        "time_step_rank": _rank(spec),
        "layer_norm_epsilon": spec.norm_eps,
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "residual_in_fp32": True,
        "rms_norm": True,
        "tie_word_embeddings": spec.tie_embeddings,
        "torch_dtype": "float32",
    }


def _rank(spec: ModelSpec) -> int:
    return math.ceil(spec.d_model / 16) if spec.dt_rank == "auto" else spec.dt_rank


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(config).__name__}")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        if (folder / WEIGHTS).is_file():
            return load_file(folder / WEIGHTS)
        if (folder / SHARDS).is_file():
            files = sorted(set(json.loads((folder / SHARDS).read_text(encoding="utf-8"))["weight_map"].values()))
            return {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
        if (folder / PICKLED).is_file():
            return dict(torch.load(folder / PICKLED, map_location="cpu", weights_only=True))
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{folder}: its weights cannot be read: {error}") from error
    raise CheckpointError(f"{folder}: holds none of {WEIGHTS}, {SHARDS} and {PICKLED}")


def _ours(name: str, tensors: dict[str, Tensor], layout: Layout, folder: Path) -> Tensor:
    theirs = their_name(name, layout)
    if theirs not in tensors:
        raise CheckpointError(f"{folder}: the tensor {theirs} is missing")
    tensor = tensors[theirs].float()
    return tensor.squeeze(1) if name.endswith("conv_weight") else tensor
