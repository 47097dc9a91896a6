"""Which queued runs start together, as one ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from storage.records import QueuedRun
from workers.jobs.ledger import Ledger, Share
from workers.jobs.retry import Reason
from workers.packing import members, most_members, signature

# After any other end a run starts alone: of the runs whose process broke down, the one at fault then fails alone
TOGETHER_AFTER = frozenset({None, Reason.SHUTDOWN, Reason.PREEMPTED})
REMEMBER = 4096  # queued runs whose specs need not be read again


@dataclass(frozen=True, slots=True)
class _Kind:
    """What runs must have in common to start together, and how many of them may."""

    signature: str
    most: int


@dataclass(slots=True)
class Packer:
    """Finds companions for a run that is about to start. The queue is looked at often, so what specs say is remembered."""

    ledger: Ledger
    _kinds: dict[str, _Kind] = field(default_factory=dict)

    def companions(self, run: QueuedRun, share: Share, behind: Sequence[QueuedRun]) -> list[QueuedRun]:
        """Return the runs of those `behind` it in the queue that start with a run, in their order; none where it is alone.

        Where the controller chooses, runs are spread over all GPUs before they share one.
        """
        kind = self._kind(run, share)
        if kind.most < 2:
            return []
        alike = [other for other in behind if self._fits(run, other) and self._kind(other, share) == kind]
        gpus = sum(node.gpus for node in self.ledger.nodes) if run.gpus is None else 0
        return alike[: members(1 + len(alike), kind.most, spread_over=gpus) - 1]

    def _fits(self, run: QueuedRun, other: QueuedRun) -> bool:
        mine = (run.cpus, run.gpus, run.priority)
        return other.reason in TOGETHER_AFTER and (other.cpus, other.gpus, other.priority) == mine

    def _kind(self, run: QueuedRun, share: Share) -> _Kind:
        if run.reason not in TOGETHER_AFTER or self.ledger.exclusive:
            return _Kind("", 1)
        known = self._kinds.get(run.id)
        if known is None:
            if len(self._kinds) >= REMEMBER:
                self._kinds.clear()
            spec = run.spec
            known = self._kinds[run.id] = _Kind(
                signature(spec), most_members(spec, given_gpu=run.gpus is None and share.gpus > 0)
            )
        return known
