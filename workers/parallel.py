"""How many processes train a run together. Pure: reads a spec as JSON, as the store keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def processes(spec: Mapping[str, Any]) -> int:
    """Return `train.data_parallel`, or where that is 0 the whole GPUs that the run asks for, one at least."""
    asked = int(spec.get("train", {}).get("data_parallel", 0))
    gpus = spec.get("resources", {}).get("gpus", "auto")
    return asked or (int(gpus) if gpus != "auto" and gpus > 1 else 1)


def refusal(spec: Mapping[str, Any]) -> str:
    """Return why a run cannot be trained by as many processes as it asks for, or nothing."""
    count = processes(spec)
    if count == 1:
        return ""
    train, gpus = spec.get("train", {}), spec.get("resources", {}).get("gpus", "auto")
    whole, parts = train.get("batch_size", 1), train.get("accumulate", 1)
    said = f"{count} processes train one run (train.data_parallel, else resources.gpus)"
    if whole % (parts * count):
        return f"{said}, so train.batch_size must be a multiple of {parts * count} with train.accumulate {parts}, got {whole}"
    if dropout := spec.get("model", {}).get("dropout", 0.0):
        return (
            f"{said}, and model.dropout is {dropout}: their random streams are not kept in checkpoints. Leave one out"
        )
    if gpus not in ("auto", 0) and gpus != count:
        return f"{said}, a whole GPU each or none: resources.gpus must be {count} or 0, got {gpus:g}"
    return ""
