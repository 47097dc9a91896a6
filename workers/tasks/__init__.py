"""Tasks that models are trained on. Importing this package touches no device and opens no file."""

from workers.tasks.base import IGNORE, Batch, EvalTotals, Task
from workers.tasks.build import build_task, describe_example

__all__ = ["IGNORE", "Batch", "EvalTotals", "Task", "build_task", "describe_example"]
