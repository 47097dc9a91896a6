"""The Ray cluster of a store: a loopback head of its own, or one that exists already.

The own head listens on 127.0.0.1 alone, with a token, port and temporary folder of its own, so that several stores and
other people's clusters live side by side. It is never ended with `ray stop`, which ends every cluster of the user.
Exactly its own processes are ended: they carry a random mark in their environment. Two of Ray's agents overwrite
theirs; those are known by their session, which is the head's alone, together with the files that they have open.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from storage.home import HomePaths
from workers.jobs.errors import ClusterError
from workers.jobs.launch import ROOT, with_this_code
from workers.jobs.process import ProcessId, count_gpus, end_processes

NAMESPACE = "mambalab"  # of the connection; the actors' is the store's own
MARK = "MAMBALAB_CLUSTER"
OBJECT_STORE_BYTES = 80_000_000  # near Ray's minimum: metrics travel, tensors do not
START_TIMEOUT_S = 90.0
STOP_GRACE_S = 0.5  # Ray's own processes have nothing to save, and some ignore SIGTERM for 40 s


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """A cluster that a store started, as controller.json keeps it: address, mark, temporary folder, and session."""

    address: str
    mark: str
    temp_dir: str
    session: int

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ClusterRecord:
        """Read what `to_json` made."""
        return cls(str(tree["address"]), str(tree["mark"]), str(tree["temp_dir"]), int(tree["session"]))


def prepare_environment(paths: HomePaths) -> None:
    """Set what every process that talks to the store's own cluster needs, before Ray is imported.

    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 makes Ray use 127.0.0.1 as the node's address on Linux, as it does on laptops
    with other systems by default. The token's file is the store's own, never the one in the home folder.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(_ensure_token(paths))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # the worker's own environment says which GPUs it may see


def start_head(paths: HomePaths, *, cpus: float | None = None, gpus: int | None = None) -> ClusterRecord:
    """Start a Ray head for the store and return how to reach and end it. `prepare_environment` comes first.

    Raises:
        ClusterError: it does not start; the message ends with what Ray said.
    """
    mark = secrets.token_hex(8)
    temp_dir = Path(f"{paths.ray_temp}-{mark[:4]}")  # a new one each time: Ray tells sessions apart by the second
    temp_dir.mkdir(mode=0o700, parents=True)
    port = _free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}"]
    command += ["--include-dashboard=false", "--disable-usage-stats", "--include-log-monitor=false"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={temp_dir}"]
    command += [f"--num-cpus={int(cpus or os.cpu_count() or 1)}"]
    command += [f"--num-gpus={count_gpus(os.environ) if gpus is None else gpus}"]
    environment = {**with_this_code(os.environ), MARK: mark, "PYTHONWARNINGS": "ignore"}
    environment["RAY_health_check_period_ms"] = "1000"  # a dead node is known in 5 s, not 15; a slow one lives as long
    with tempfile.TemporaryFile() as output:  # not a pipe: what Ray leaves running would hold it open
        starter = subprocess.Popen(
            command,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        record = ClusterRecord(f"127.0.0.1:{port}", mark, str(temp_dir), starter.pid)
        try:
            code: int | None = starter.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            code = None
        except BaseException:
            end_cluster(record)  # interrupted: nobody will know of it
            raise
        if code == 0:
            return record
        end_cluster(record)
        starter.wait(STOP_GRACE_S)
        output.seek(0)
        said = output.read().decode(errors="replace")[-2000:] or "it said nothing"
    problem = f"did not start within {START_TIMEOUT_S:.0f} s" if code is None else f"did not start (exit code {code})"
    raise ClusterError(f"Ray {problem}: {said}")


def connect(address: str, *, own: bool) -> tuple[str, dict[str, Any]]:
    """Connect this process to a cluster; return its head's HOST:PORT and the runtime environment that actors need.

    A cluster of our own shares this machine's files; another one is sent the checkout.

    Raises:
        ClusterError: nobody answers there, or the token or the versions do not fit.
    """
    import ray

    runtime_env: dict[str, Any] = {}
    if not own and not _is_loopback(address):
        runtime_env = {"working_dir": str(ROOT), "excludes": [".git", ".venv", ".mambalab", "tests", "docs"]}
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address}: {error}. Expected HOST:PORT of a head with the same Ray and Python "
            "versions, and its token in RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN."
        ) from error
    return str(ray.get_runtime_context().gcs_address), runtime_env


def actor_namespace(paths: HomePaths) -> str:
    """Return the namespace of the names of a store's actors, so that two stores may share a cluster."""
    return paths.ray_temp.name


def answers(address: str, timeout_s: float = 2.0) -> bool:
    """Say whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s):
            return True
    except (OSError, ValueError):
        return False


def members(record: ClusterRecord) -> list[psutil.Process]:
    """Return exactly the living processes of a cluster, workers below its actors included."""
    found: list[psutil.Process] = []
    own = os.getuid()
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.uids().real == own and _belongs(process, record):
                found.append(process)
        except (psutil.Error, ProcessLookupError):
            continue  # it ended meanwhile, or hides its environment, which ours never do
    return found


def _belongs(process: psutil.Process, record: ClusterRecord) -> bool:
    if process.status() == psutil.STATUS_ZOMBIE:
        return False
    if process.environ().get(MARK) == record.mark:
        return True
    if os.getsid(process.pid) != record.session:
        return False
    return any(file.path.startswith(f"{record.temp_dir}{os.sep}") for file in process.open_files())


def end_cluster(record: ClusterRecord, *, grace_s: float = STOP_GRACE_S) -> list[ProcessId]:
    """End exactly the processes of a cluster and remove its temporary folder. Return those that still live."""
    left = end_processes(members(record), grace_s=grace_s)
    late = members(record)  # started by a member while it was being ended
    if late:
        left = end_processes(late, grace_s=0.0)
    if not left:
        shutil.rmtree(record.temp_dir, ignore_errors=True)
    return left


def _ensure_token(paths: HomePaths) -> Path:
    """Return the file of the store's token, made on first use and readable by its owner alone."""
    try:
        descriptor = os.open(paths.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return paths.token
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return paths.token


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_loopback(address: str) -> bool:
    return address.rpartition(":")[0] in ("127.0.0.1", "localhost", "::1", "[::1]")
