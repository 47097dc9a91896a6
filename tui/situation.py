"""What a screen offers to act on, and the conditions of actions: each returns why it cannot be done now, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Situation:
    """What conditions look at: what the current screen offers to act on."""

    targets: tuple[str, ...] = ()  # statuses of the runs an action would act on
    marked: int = 0
    comparable: int = 0  # runs that compare would show
    writable: bool = True
    why_not_writable: str = ""
    has_ablation: bool = False
    axes: int = 0
    metrics: int = 0
    tab: str = ""
    filtered: bool = False
    can_launch: bool = False
    abandoned: bool = False  # runs wait and no controller lives


Condition = Callable[[Situation], str]


def always(_situation: Situation) -> str:
    """Can always be done."""
    return ""


def some_run(now: Situation) -> str:
    """Needs a run under the cursor."""
    return "" if now.targets else "no run is selected"


def can_write(now: Situation) -> str:
    """Needs a run, and a store that takes writes."""
    return some_run(now) or ("" if now.writable else now.why_not_writable)


def can_cancel(now: Situation) -> str:
    """Needs a run that waits or runs."""
    return can_write(now) or _needs(now, ("queued", "running"), "only queued and running runs can be cancelled")


def can_retry(now: Situation) -> str:
    """Needs a run that failed or was cancelled, or one that waits for a controller that is not there."""
    statuses = ("failed", "cancelled", "queued") if now.abandoned else ("failed", "cancelled")
    return can_write(now) or _needs(now, statuses, "only failed and cancelled runs can be retried")


def can_clone(now: Situation) -> str:
    """Needs a run, and somebody who queues runs."""
    return can_write(now) or ("" if now.can_launch else "nothing here queues runs")


def can_resume(now: Situation) -> str:
    """Needs a run that has been at work, and somebody who queues runs."""
    waits = all(status == "queued" for status in now.targets)
    return can_clone(now) or ("a run that has not started has no checkpoint" if waits else "")


def can_extend(now: Situation) -> str:
    """Needs an ablation, and somebody who queues runs."""
    if not now.has_ablation:
        return "no ablation is selected"
    return ("" if now.writable else now.why_not_writable) or ("" if now.can_launch else "nothing here queues runs")


def can_prioritise(now: Situation) -> str:
    """Needs a run that waits."""
    return can_write(now) or _needs(now, ("queued",), "only queued runs have an order to change")


def _needs(now: Situation, statuses: tuple[str, ...], reason: str) -> str:
    return "" if any(status in statuses for status in now.targets) else f"{reason}; this is {now.targets[0]}"


def can_compare(now: Situation) -> str:
    """Needs two runs."""
    return "" if now.comparable >= 2 else "mark two or more with space first"


def has_ablation(now: Situation) -> str:
    """Needs an ablation."""
    return "" if now.has_ablation else "this run belongs to no ablation"


def has_axes(now: Situation) -> str:
    """Needs two axes to change their places."""
    return "" if now.axes else "an ablation without axes has one cell"


def has_metrics(now: Situation) -> str:
    """Needs another metric."""
    return "" if now.metrics > 1 else "there is no other metric yet"


def on_tab(*tabs: str) -> Condition:
    """Return the condition that one of these tabs is open."""
    return lambda now: "" if now.tab in tabs else f"this works on the tab {' and '.join(tabs)}"


def has_marks(now: Situation) -> str:
    """Needs marks."""
    return "" if now.marked else "nothing is marked"
