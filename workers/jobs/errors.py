"""What can go wrong between a queued run and its result. Every message says what, got, expected, and what to do.

JobError
    ControllerError    the controller cannot start, or another one holds the store
        StoreRemovedError  somebody removed the store while it was in use
    ClusterError       Ray cannot be started, joined or ended
    ExecutorError      an attempt cannot be started
    SpoolError         a worker's report cannot be written
        SpoolTakenError  another process writes it
"""

from __future__ import annotations


class JobError(RuntimeError):
    """Base of what the jobs room raises."""


class ControllerError(JobError):
    """The controller cannot start or go on."""


class StoreRemovedError(ControllerError):
    """The store's file was removed while a controller worked on it."""


class ClusterError(JobError):
    """Ray cannot be started, joined or ended."""


class ExecutorError(JobError):
    """An attempt cannot be started, or its handle is not one of this executor."""


class SpoolError(JobError):
    """A worker's report cannot be written to disk."""


class SpoolTakenError(SpoolError):
    """Another process writes this spool: it is at work on the same attempt."""
