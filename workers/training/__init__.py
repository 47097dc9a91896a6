"""Training of one run: `run_trial`, what it is given, and what it returns."""

from workers.training.checkpoint import Checkpoint, CheckpointStore, load_weights
from workers.training.context import JSON, MemorySink, MetricSink, RunContext, RunResult
from workers.training.errors import DeviceError, NonFiniteLossError, RunOutOfMemoryError, TrainingError, error_code
from workers.training.identity import identity_hash
from workers.training.trial import run_trial

__all__ = [
    "JSON",
    "Checkpoint",
    "CheckpointStore",
    "DeviceError",
    "MemorySink",
    "MetricSink",
    "NonFiniteLossError",
    "RunContext",
    "RunOutOfMemoryError",
    "RunResult",
    "TrainingError",
    "error_code",
    "identity_hash",
    "load_weights",
    "run_trial",
]
