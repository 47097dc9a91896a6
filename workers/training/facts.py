"""Facts about a run that are noted once: the model, the hardware, the data."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from workers.tasks import Task
from workers.tasks.bytestream import ByteStream
from workers.tasks.text import TextTask
from workers.training.context import JSON, MetricSink
from workers.training.precision import Placement

_HASHED_AT_ONCE = 1 << 20  # bytes


def note_facts(sink: MetricSink, task: Task, model: nn.Module, placement: Placement) -> None:
    """Note `model` (parameters), `hardware` (device, threads, versions, precision and why) and `data`."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    sink.note("model", {"parameters": parameters, "trainable": trainable})
    sink.note("hardware", placement.facts())
    sink.note("data", data_facts(task))


def data_facts(task: Task) -> dict[str, JSON]:
    """Return a task's name and sizes; for text also the path, the bytes, and the SHA-256 of these bytes in order.

    Where a tokenizer file makes the tokens, its path and SHA-256 come along.
    """
    facts: dict[str, JSON] = {"task": task.name, "vocab_size": task.vocab_size, "seqlen": task.seqlen}
    if isinstance(task, TextTask):
        stream = ByteStream(task.path)
        facts |= {"path": str(task.path), "bytes": len(stream), "sha256": _sha256(stream)}
        if task.tokenizer_path is not None:
            digest = hashlib.sha256(task.tokenizer_path.read_bytes()).hexdigest()
            facts |= {"tokenizer": str(task.tokenizer_path), "tokenizer_sha256": digest}
    return facts


def _sha256(stream: ByteStream) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(stream), _HASHED_AT_ONCE):
        length = min(_HASHED_AT_ONCE, len(stream) - start)
        piece = stream.read(torch.tensor([start]), length, "cpu")
        digest.update(piece.to(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
