"""Tasks that models are trained on. Importing this package touches no device and opens no file."""

from workers.tasks.base import IGNORE, Batch, Curriculum, EvalTotals, HostData, Task
from workers.tasks.build import build_task, describe_example

__all__ = ["IGNORE", "Batch", "Curriculum", "EvalTotals", "HostData", "Task", "build_task", "describe_example"]
