"""What a controller's process does: a cluster where it needs one, the loop, and the end of what it started."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from dataclasses import replace

from storage.home import HomePaths
from storage.repository import Repository
from workers.jobs.clock import SystemClock
from workers.jobs.cluster import (
    ClusterRecord,
    actor_namespace,
    answers,
    connect,
    end_cluster,
    prepare_environment,
    start_head,
)
from workers.jobs.cluster_state import announce
from workers.jobs.controller import Controller, Ended
from workers.jobs.detach import SubmitOptions
from workers.jobs.errors import ClusterError
from workers.jobs.executors.base import Executor
from workers.jobs.executors.remains import Remains
from workers.jobs.files import write_json
from workers.jobs.lock import ControllerRecord, read_record
from workers.jobs.process import ProcessId
from workers.jobs.requests import Requests
from workers.jobs.settings import ControllerSettings
from workers.jobs.shutdown import end_workers

log = logging.getLogger("mambalab.controller")

JOINED_UNFIT_S = 60.0  # machines of a cluster that we joined may still be on their way
OWN_CLUSTER_S = 5.0  # a head of our own that does not answer for so long is dead


def end_left_cluster(paths: HomePaths, *, grace_s: float) -> None:
    """End the head that a dead controller of the store left, where it did. Its workers save their state first."""
    last = read_record(paths)
    if last is None or last.cluster is None or not last.here:
        return
    end_workers(paths, grace_s=grace_s)
    end_cluster(ClusterRecord.from_json(last.cluster))


class Service:
    """One controller's life: a cluster where it needs one, the loop, and the end of what it started."""

    def __init__(self, paths: HomePaths, options: SubmitOptions, *, only_end: bool = False) -> None:
        self._paths = paths
        self._options = options
        self._only_end = only_end
        self._controller: Controller | None = None
        self._asked_to_end = False
        me = ProcessId.of(os.getpid())
        self.record = ControllerRecord(
            pid=os.getpid(),
            created=me.created if me is not None else 0.0,
            host=socket.gethostname(),
            executor=options.executor,
            address=options.address or "",
            cluster=None,
            started_at=time.time(),
        )

    def run(self) -> Ended:
        """Run the controller's loop to its end, then end the cluster where it is our own."""
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        signal.signal(signal.SIGINT, lambda *_: self._end())
        inherited = self._inherited_cluster()
        self._publish(inherited)
        if not self._only_end and self._nothing_to_run():
            self.end_cluster()
            return Ended.IDLE
        executor = self._executor(inherited)
        signal.signal(signal.SIGTERM, lambda *_: self._end())  # Ray may have put a handler of its own there
        own = self.record.cluster is not None
        settings = ControllerSettings(
            trial=self._options.trial,
            ensemble=self._options.ensemble,
            idle_s=self._options.idle_s,
            grace_s=self._options.grace_s,
            unfit_s=JOINED_UNFIT_S if self._options.address else 0.0,
            cluster_s=OWN_CLUSTER_S if own else None,
        )
        clock = SystemClock()
        self._controller = Controller(self._paths, executor, settings, clock=clock, record=self.record.to_json())
        if self._asked_to_end or self._only_end:
            self._controller.end()
        log.info("controller of %s, process %d, executor %s", self._paths.root, os.getpid(), self._options.executor)
        ended = self._controller.run()
        log.info("the controller ends: %s", ended.value)
        self._controller.close()
        executor.close()
        self.end_cluster()
        return ended

    def _nothing_to_run(self) -> bool:
        """Settle requests that need no cluster; say whether that was all. Nobody waits for Ray to cancel a queued run."""
        with Repository(self._paths) as repository:
            if repository.running():
                return False
            Requests(repository, lambda *_: None, SystemClock()).tick()
            return repository.count_waiting() == 0

    def work_waits(self) -> bool:
        """Say whether there is anything to do."""
        with Repository(self._paths) as repository:
            return repository.count_waiting() > 0 or bool(repository.pending_requests())

    def abandon_cluster(self) -> None:
        """End what is left of our own cluster after it was lost. Workers save their state first."""
        end_workers(self._paths, grace_s=self._options.grace_s)
        self.end_cluster()
        self._publish(None)
        self._announce("has lost its Ray head and starts another one")

    def _announce(self, told: str) -> None:
        announce(self._paths, self.record.to_json(), time.time(), told)

    def _end(self) -> None:
        self._asked_to_end = True
        if self._controller is not None:
            self._controller.end()

    def _executor(self, inherited: ClusterRecord | None) -> Executor:
        if self._options.executor == "subprocess":
            from workers.jobs.executors.subprocess import SubprocessExecutor

            return SubprocessExecutor(cpus=self._options.cpus)
        address = self._options.address
        if not address:
            prepare_environment(self._paths)
            if self._only_end and inherited is None:
                return Remains()
            if inherited is None:
                self._announce("starts a Ray head")
            cluster = inherited or start_head(self._paths, cpus=self._options.cpus)
            self._publish(cluster)
            address = cluster.address
        self._announce(f"joins the Ray cluster at {address}")
        try:
            head, runtime_env = connect(address, own=not self._options.address)
        except ClusterError:
            if not self._only_end:
                raise
            log.exception("what is left is ended without the cluster")
            return Remains()
        from workers.jobs.executors.ray import RayExecutor

        return RayExecutor(actor_namespace(self._paths), head, runtime_env=runtime_env)

    def _inherited_cluster(self) -> ClusterRecord | None:
        """Return the living head that the last controller started and left; end it where it is not wanted or not whole."""
        last = read_record(self._paths)
        if last is None or last.cluster is None or not last.here:
            return None
        cluster = ClusterRecord.from_json(last.cluster)
        if self._options.executor == "ray" and not self._options.address and answers(cluster.address):
            return cluster
        end_left_cluster(self._paths, grace_s=self._options.grace_s)
        return None

    def _publish(self, cluster: ClusterRecord | None) -> None:
        self.record = replace(self.record, cluster=None if cluster is None else cluster.to_json())
        write_json(self._paths.controller_json, self.record.to_json())

    def end_cluster(self) -> None:
        """End the head that this process started or took over; none where there is none."""
        if self.record.cluster is None:
            return
        left = end_cluster(ClusterRecord.from_json(self.record.cluster))
        if left:
            log.error("processes of the Ray head that could not be ended: %s", [process.pid for process in left])
