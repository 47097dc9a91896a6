"""How patient the controller is. The defaults are for people; tests shorten them."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.jobs.attempt import ENSEMBLE, TRIAL
from workers.jobs.retry import Backoff

IDLE_S = 900.0
GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What the controller is told.

    Attributes:
        trial, ensemble: what attempts run, alone and as an ensemble, `module:name`.
        idle_s: it ends after so long without anything to do.
        grace_s: so long a worker may take to save its state when asked to stop.
        silent_grace_s: the same for one that gives no sign of life: it hardly will.
        silence_s: no sign of life for so long, and a worker counts as lost. Workers give one every 2 s.
        start_s: so long it may take until the first one: another machine may have to fetch the code.
        abandon_s: what has not ended so long after its grace is given up, whatever became of it.
        unfit_s: a run that is larger than every machine fails after so long; machines may still be joining.
        cluster_s: a cluster without a living machine for so long is lost; None: wait for it for ever.
        store_s: the controller gives up when the store refuses everything for so long.
        poll_s, idle_poll_s: pause between rounds with and without attempts at work.
        backoff: pause before a run's next attempt.
    """

    trial: str = TRIAL
    ensemble: str = ENSEMBLE
    idle_s: float = IDLE_S
    grace_s: float = GRACE_S
    silent_grace_s: float = 5.0
    silence_s: float = 60.0
    start_s: float = 300.0
    abandon_s: float = 30.0
    unfit_s: float = 0.0
    cluster_s: float | None = None
    store_s: float = 600.0
    poll_s: float = 0.05
    idle_poll_s: float = 0.1
    backoff: Backoff = field(default_factory=Backoff)
