"""Which attempts hear how their worker ended when one Ray actor serves several, with a cluster of one fake actor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from storage.home import AttemptPaths
from workers.jobs.executors import ray as ray_executor
from workers.jobs.executors.base import Report, State
from workers.jobs.executors.ray import RayExecutor, _host
from workers.jobs.files import write_json

KILLED = -9


@dataclass
class Method:
    """One method of the fake actor; what it returns stands for Ray's reference to an answer."""

    name: str

    def remote(self, directory: str, *rest: object) -> tuple[str, str]:
        """Return the question."""
        return self.name, directory


@dataclass
class FakeCluster:
    """Ray as far as the executor asks it. Answers come once the test lets them, and none from a killed actor."""

    late: set[str] = field(default_factory=set)
    killed: bool = False
    exit_code: int | None = KILLED

    @property
    def poll(self) -> Method:
        """The actor's method."""
        return Method("poll")

    def get_actor(self, name: str, namespace: str) -> FakeCluster:
        """Return the only actor."""
        if self.killed:
            raise ValueError(name)
        return self

    def wait(
        self, questions: Sequence[tuple[str, str]], timeout: float
    ) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the questions that are answered, and the others."""
        ready = [one for one in questions if self.killed or one[1] not in self.late]
        return ready, [one for one in questions if one not in ready]

    def get(self, question: tuple[str, str]) -> tuple[Report, bytes, str]:
        """Return an answer."""
        if self.killed:
            raise RayActorError(error_msg="The actor is dead because it was killed by `ray.kill`.")
        state: State = "running" if self.exit_code is None else "exited"
        return Report(state, exit_code=self.exit_code), b"", _host()

    def kill(self, actor: object, *, no_restart: bool) -> None:
        """End the actor."""
        assert actor is self
        assert no_restart
        self.killed = True


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    monkeypatch.setattr(ray_executor, "ray", made)
    return made


@pytest.fixture
def handles(tmp_path: Path) -> list[str]:
    """The attempts of an ensemble of three, as a controller finds them that was started again."""
    folders = [str(tmp_path / name) for name in "abc"]
    for folder in folders:
        Path(folder).mkdir()
        write_json(AttemptPaths(Path(folder)).spec, {"pack": folders})
    return [
        json.dumps({"actor": "run-a-1", "namespace": "n", "directory": folder, "pack": folders}) for folder in folders
    ]


def directory(handle: str) -> Path:
    return Path(json.loads(handle)["directory"])


def test_each_of_an_ensemble_hears_how_the_worker_ended_before_the_actor_goes(
    cluster: FakeCluster, handles: list[str]
) -> None:
    """One that hears later must not hear of the end of an actor that was ended because another one had heard."""
    executor = RayExecutor("n", "127.0.0.1:1")
    cluster.late = {str(directory(handle)) for handle in handles[1:]}
    reports = [executor.poll(handle, 0) for handle in handles]
    assert [report.state for report in reports] == ["exited", "running", "running"]
    executor.release(handles[0])
    cluster.late = {str(directory(handles[2]))}
    assert executor.poll(handles[1], 0).exit_code == KILLED
    executor.release(handles[1])
    assert not cluster.killed
    cluster.late = set()
    assert executor.poll(handles[2], 0).exit_code == KILLED
    executor.release(handles[2])
    assert cluster.killed


def test_an_attempt_that_is_let_go_of_while_it_runs_takes_its_ensemble_along(
    cluster: FakeCluster, handles: list[str]
) -> None:
    cluster.exit_code = None
    executor = RayExecutor("n", "127.0.0.1:1")
    assert [executor.poll(handle, 0).state for handle in handles] == ["running"] * 3
    executor.release(handles[1])
    assert cluster.killed
    assert executor.poll(handles[0], 0).state == "gone"


def test_one_that_is_over_leaves_the_actor_to_those_that_are_not(cluster: FakeCluster, handles: list[str]) -> None:
    cluster.exit_code = None
    executor = RayExecutor("n", "127.0.0.1:1")
    for handle in handles:
        executor.poll(handle, 0)
    for handle in handles:
        assert not cluster.killed
        write_json(AttemptPaths(directory(handle)).result, {"status": "completed", "reason": "steps"})
        executor.release(handle)
    assert cluster.killed
