"""From a task's spec to the task, and an example of it as text."""

from __future__ import annotations

import torch

from workers.specs import (
    AssociativeRecallSpec,
    CopyingSpec,
    DnaSpec,
    InductionHeadsSpec,
    ModularArithmeticSpec,
    MqarSpec,
    ParitySpec,
    SelectiveCopyingSpec,
    TaskSpec,
    TextSpec,
)
from workers.tasks.associative_recall import AssociativeRecallTask
from workers.tasks.base import Task
from workers.tasks.copying import CopyingTask
from workers.tasks.dna import DnaTask
from workers.tasks.formal import ModularArithmeticTask, ParityTask
from workers.tasks.induction_heads import InductionHeadsTask
from workers.tasks.mqar import MqarTask
from workers.tasks.selective_copying import SelectiveCopyingTask
from workers.tasks.text import TextTask


def build_task(spec: TaskSpec) -> Task:
    """Return the task that a spec describes.

    Raises:
        TaskError: the spec cannot be met, such as a text path that does not exist.
    """
    match spec:
        case CopyingSpec():
            return CopyingTask(spec)
        case SelectiveCopyingSpec():
            return SelectiveCopyingTask(spec)
        case InductionHeadsSpec():
            return InductionHeadsTask(spec)
        case MqarSpec():
            return MqarTask(spec)
        case AssociativeRecallSpec():
            return AssociativeRecallTask(spec)
        case ParitySpec():
            return ParityTask(spec)
        case ModularArithmeticSpec():
            return ModularArithmeticTask(spec)
        case TextSpec():
            return TextTask(spec)
        case DnaSpec():
            return DnaTask(spec)


def describe_example(task: Task, seed: int) -> str:
    """Return one example input and its target, drawn with `seed`, laid out for a person to check."""
    batch = task.sample(torch.Generator().manual_seed(seed), 1, "cpu")
    head = f"{task.name}: {task.seqlen} positions, {task.vocab_size} tokens"
    return f"{head}\n{task.describe(batch)}"
