"""Errors of the workers' rooms that a user's input can cause."""

from __future__ import annotations


class SpecError(ValueError):
    """A spec that cannot be used; the message names the file, the key, what was expected and what to do."""


class TaskError(ValueError):
    """A task that cannot be built from its spec, such as a text folder without text."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or does not belong to this run."""
