"""Runs attempts on a Ray cluster: each in a detached named actor that supervises one worker process.

The actor outlives whoever made it, so a controller that dies takes no run with it: the next one finds the actor by its
name. Ray restarts nothing (`max_restarts=0`): retries are the controller's. The trial runs in a process below the
actor and knows no Ray, which would replace its SIGTERM handler and share its fate when CUDA memory runs out.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RuntimeEnvSetupError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from storage.home import AttemptPaths
from workers.jobs.attempt import AttemptSpec
from workers.jobs.cluster import answers
from workers.jobs.errors import ExecutorError
from workers.jobs.executors.base import Capacity, Node, Report
from workers.jobs.executors.ray_actor import RunActor
from workers.jobs.files import write_json
from workers.jobs.supervisor import leftovers, serves_others
from workers.jobs.team import ray_train_is_installed
from workers.parallel import processes

GONE = (RayActorError, ActorUnschedulableError, NodeDiedError, OutOfMemoryError, RuntimeEnvSetupError)


@dataclass(slots=True)
class _Remote:
    """What this process holds for one attempt: the actor, and the question that it has not answered yet.

    The attempts of an ensemble, in the folders `pack`, have one actor. `ended` says that the end of the worker is known here.
    """

    name: str
    namespace: str
    directory: Path
    pack: tuple[str, ...] = ()
    actor: Any = None
    question: Any = None
    cursor: int = -1
    ended: bool = False


def _where(node: Mapping[str, Any]) -> str:
    """Return a node's name and address for people; on one machine its name would only be repeated."""
    return f"{node.get('NodeManagerHostname', '')} {node.get('NodeManagerAddress', '')}".strip()


class RayExecutor:
    """Attempts as detached actors of a connected cluster (`workers.jobs.cluster` connects).

    Questions to actors are never waited for: `poll` hands out the answer to the previous one.

    Args:
        namespace: of the actors' names; one per store.
        address: HOST:PORT of the cluster's head.
        runtime_env: what actors need beyond this machine's files.
    """

    name = "ray"

    def __init__(self, namespace: str, address: str, *, runtime_env: Mapping[str, Any] | None = None) -> None:
        self._namespace = namespace
        self._address = address
        self._runtime_env = dict(runtime_env or {})
        self._remotes: dict[str, _Remote] = {}

    def capacity(self) -> Capacity:
        """Return the living nodes of the cluster; none where its head does not answer."""
        if not answers(self._address, timeout_s=0.5):
            return Capacity(())  # Ray itself would wait for a minute and then end this process
        return Capacity(
            tuple(
                Node(
                    node["NodeID"],
                    node["Resources"].get("CPU", 0.0),
                    int(node["Resources"].get("GPU", 0)),
                    _where(node),
                )
                for node in ray.nodes()
                if node["Alive"]
            )
        )

    def start(self, attempt: AttemptSpec) -> str:
        """Make the attempt's actor, or find it; an ensemble's is made for the first of its attempts."""
        remote = _Remote(attempt.leader or attempt.key, self._namespace, attempt.path, attempt.pack)
        handle = json.dumps(
            {
                "actor": remote.name,
                "namespace": remote.namespace,
                "directory": attempt.directory,
                "pack": list(attempt.pack),
            }
        )
        remote.actor = self._ensembles_actor(attempt) if attempt.follows else self._make_actor(attempt)
        self._remotes[handle] = remote
        return handle

    def _ensembles_actor(self, attempt: AttemptSpec) -> Any:
        try:
            return ray.get_actor(attempt.leader, namespace=self._namespace)
        except ValueError as error:
            raise ExecutorError(
                f"{attempt.key}: the actor of its ensemble, {attempt.leader}, is not there: {error}"
            ) from error

    def _make_actor(self, attempt: AttemptSpec) -> Any:
        together = processes(attempt.spec) > 1 and ray_train_is_installed()
        leashed = replace(attempt, leash=True, devices=())  # Ray itself chooses GPUs, and tells by the environment
        if together:
            leashed = replace(leashed, cluster=self._address)
        options: dict[str, Any] = {
            "name": attempt.key,
            "namespace": self._namespace,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": 0,
            "num_cpus": 0 if together else attempt.cpus,  # Ray Train's workers hold them
            "num_gpus": 0 if together else attempt.gpus,
            "runtime_env": self._runtime_env,
        }
        if attempt.node:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(attempt.node, soft=False)
        try:
            return ray.remote(RunActor).options(**options).remote(leashed.to_json())
        except RayError as error:
            raise ExecutorError(f"no actor for {attempt.key}: {error}") from error

    def poll(self, handle: str, cursor: int) -> Report:
        """Return the answer to the last question, and ask the next; `running` without news while there is none."""
        remote = self._find(handle)
        if remote.actor is None:
            return _left(remote, cursor, "the actor is gone")
        if remote.question is None or remote.cursor != cursor:
            self._ask(remote, cursor)
        ready, _ = ray.wait([remote.question], timeout=0)
        if not ready:
            return Report("running", cursor=cursor)
        question, remote.question = remote.question, None
        try:
            report, log, host = ray.get(question)
        except ActorUnavailableError:
            return Report("running", cursor=cursor)  # unknown, not dead: the controller counts how long it stays silent
        except GONE as error:
            remote.actor = None
            return _left(remote, cursor, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        assert isinstance(report, Report)
        self._keep(remote, report, log, host)
        remote.ended = report.state == "exited"
        if not remote.ended:
            self._ask(remote, report.cursor)
        return report

    def stop(self, handle: str, grace_s: float) -> None:
        """SIGTERM through the actor, SIGKILL after the grace."""
        remote = self._find(handle)
        if remote.actor is not None:
            remote.actor.stop.remote(str(remote.directory), grace_s)

    def release(self, handle: str) -> None:
        """End the actor, and with it what is left of its worker, unless others of the attempt's ensemble need it.

        They need a worker that serves them, and an actor that has yet to tell them how their worker ended.
        """
        remote = self._find(handle)
        self._remotes.pop(handle, None)
        if remote.actor is None or serves_others(remote.directory, remote.pack):
            return
        if remote.ended and any(other.name == remote.name for other in self._remotes.values()):
            return  # whoever is released last ends it
        ray.kill(remote.actor, no_restart=True)

    def close(self) -> None:
        """Leave the cluster; the actors stay."""
        self._remotes.clear()
        ray.shutdown()

    def _ask(self, remote: _Remote, cursor: int) -> None:
        log = AttemptPaths(remote.directory).log
        offset = log.stat().st_size if log.exists() else 0
        remote.question = remote.actor.poll.remote(str(remote.directory), cursor, offset, _host())
        remote.cursor = cursor

    def _find(self, handle: str) -> _Remote:
        remote = self._remotes.get(handle)
        if remote is None:
            remote = self._remotes[handle] = _from_handle(handle)
            try:
                remote.actor = ray.get_actor(remote.name, namespace=remote.namespace)
            except ValueError:
                remote.actor = None
        return remote

    def _keep(self, remote: _Remote, report: Report, log: bytes, host: str) -> None:
        """Keep a copy of what a worker on another machine leaves behind there."""
        if host == _host():
            return
        paths = AttemptPaths(remote.directory)
        remote.directory.mkdir(parents=True, exist_ok=True)
        if log:
            with paths.log.open("ab") as file:
                file.write(log)
        if report.result is not None:
            write_json(paths.result, report.result)


def _left(remote: _Remote, cursor: int, detail: str) -> Report:
    """Return what a vanished actor's worker left on this machine, which may be none of it."""
    return replace(leftovers(remote.directory, cursor), detail=detail)


def _from_handle(handle: str) -> _Remote:
    try:
        tree = json.loads(handle)
        return _Remote(tree["actor"], tree["namespace"], Path(tree["directory"]), tuple(tree.get("pack", ())))
    except (ValueError, KeyError, TypeError) as error:
        raise ExecutorError(f"expected a handle of the Ray executor, got {handle!r}") from error


def _host() -> str:
    return f"{socket.gethostname()}/{os.getuid()}"
