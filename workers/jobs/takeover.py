"""Goes on with the attempts that an earlier controller of the store left at work."""

from __future__ import annotations

import logging
import traceback
from dataclasses import replace

from storage.records import AttemptEnd, RunningAttempt
from storage.status import AttemptStatus
from workers.jobs.attempt import AttemptSpec
from workers.jobs.executors.remains import Remains, handle_of
from workers.jobs.files import read_json
from workers.jobs.ledger import Placement
from workers.jobs.retry import Reason
from workers.jobs.translate import attempt_spec, timeout_of, unpack_handle
from workers.jobs.watch import Watch, Watched, of_the_store
from workers.jobs.worker import worker_of

log = logging.getLogger("mambalab.controller")


def take_over(watch: Watch) -> None:
    """Watch every attempt that the store knows to be at work.

    One whose handle was never stored is started once more, which finds it where it was started before. Attempts of
    another kind of executor are only looked after until their workers are dead.
    """
    for index, attempt in enumerate(watch.repository.running()):
        order = (-(2**62), index)  # they hold what they hold: nothing is before them
        try:
            _attach(watch, attempt, order)
        except Exception as error:
            if of_the_store(error):
                raise
            _forsake(watch, attempt, error)  # one unreadable handle must not keep the others from going on


def _attach(watch: Watch, attempt: RunningAttempt, order: tuple[int, int]) -> None:
    ours = attempt.executor == watch.executor.name
    watched = Watched(
        attempt.run_id,
        attempt.number,
        watch.executor if ours else Remains(),
        "",
        attempt.started_at,
        watch.clock.monotonic(),
        attempt.max_attempts,
        timeout_of(attempt.spec),
        cursor=attempt.cursor,
        spoke=attempt.cursor > 0,
    )
    if not ours:
        _look_after(watch, watched)
    elif attempt.handle is None:
        _start_again(watch, attempt, watched, order)
    else:
        watched.handle, placement = unpack_handle(attempt.handle)
        watch.ledger.hold(attempt.run_id, placement, order)
        watch.active[attempt.run_id] = watched
    log.info("%s: attached at byte %d of its spool", watched.key, watched.cursor)


def _start_again(watch: Watch, attempt: RunningAttempt, watched: Watched, order: tuple[int, int]) -> None:
    """Start an attempt as it was started before, with its ensemble where its folder says that it has one."""
    name = (attempt.run_id, attempt.number)
    tree = read_json(watch.paths.attempt(*name).spec)
    before = None if tree is None else AttemptSpec.from_json(tree)
    pack = "" if before is None else before.leader
    share = watch.ledger.share_of(attempt.cpus, attempt.gpus)
    placement = watch.ledger.of_pack(pack) or watch.ledger.place(attempt.run_id, share, order)
    placement = replace(placement or Placement("", (), share), pack=pack)
    watch.ledger.hold(attempt.run_id, placement, order)
    spec = attempt_spec(watch.paths, name, attempt.spec, placement, watch.settings)
    if before is not None:
        spec = replace(spec, pack=before.pack, leader=before.leader, members=before.members)
    watch.launch(spec, placement, watched)


def _look_after(watch: Watch, watched: Watched) -> None:
    """Watch an attempt of another executor: its worker saves its state, and the run goes on under this one."""
    folder = watch.paths.attempt(watched.run_id, watched.number).directory
    watched.handle = handle_of(folder)
    watch.active[watched.run_id] = watched
    worker = worker_of(folder)
    if worker is not None and worker.alive():
        watch.stop(watched.run_id, Reason.SHUTDOWN)


def _forsake(watch: Watch, attempt: RunningAttempt, error: Exception) -> None:
    log.error("run %s, attempt %d cannot be taken over", attempt.run_id, attempt.number, exc_info=error)
    now = watch.clock.now()
    end = AttemptEnd(
        AttemptStatus.LOST,
        now,
        reason=Reason.LOST,
        error=f"the attempt could not be taken over from the last controller: {error}",
        traceback="".join(traceback.format_exception(error)),
        retry_at=now if attempt.number < attempt.max_attempts else None,
    )
    watch.repository.finish_attempt(attempt.run_id, attempt.number, end)
    watch.active.pop(attempt.run_id, None)
    watch.ledger.free(attempt.run_id)
