"""The Ray cluster of a store: a loopback head of its own, or one that exists already.

The own head listens on 127.0.0.1 alone, with a token, port and temporary folder of its own, so that several stores and
other people's clusters live side by side. It is never ended with `ray stop`, which ends every cluster of the user:
each process of ours carries a random mark in its environment, and exactly those are ended.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from storage.home import HomePaths
from workers.jobs.errors import ClusterError
from workers.jobs.launch import ROOT
from workers.jobs.process import ProcessId, count_gpus, end_processes

MARK = "MAMBALAB_CLUSTER"
OBJECT_STORE_BYTES = 80_000_000  # near Ray's minimum: metrics travel, tensors do not
START_TIMEOUT_S = 90.0
STOP_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """A cluster that a store started, as controller.json keeps it: address, mark, and the temporary folder."""

    address: str
    mark: str
    temp_dir: str

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ClusterRecord:
        """Read what `to_json` made."""
        return cls(str(tree["address"]), str(tree["mark"]), str(tree["temp_dir"]))


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
    environment = {**os.environ, MARK: mark, "PYTHONPATH": _python_path(), "PYTHONWARNINGS": "ignore"}
    record = ClusterRecord(f"127.0.0.1:{port}", mark, str(temp_dir))
    try:
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        end_cluster(record)
        raise ClusterError(
            f"Ray did not start within {START_TIMEOUT_S:.0f} s: {error.output or 'it said nothing'}"
        ) from error
    if done.returncode != 0:
        end_cluster(record)
        raise ClusterError(f"Ray did not start (exit code {done.returncode}): {(done.stderr or done.stdout)[-2000:]}")
    return record


def connect(address: str, *, own: bool) -> dict[str, Any]:
    """Connect this process to a cluster; return the runtime environment that its actors need.

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
            namespace="mambalab",
            log_to_driver=False,
            logging_level="ERROR",
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address}: {error}. Expected HOST:PORT of a head with the same Ray and Python "
            "versions, and its token in RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN."
        ) from error
    return runtime_env


def answers(address: str) -> bool:
    """Say whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2.0):
            return True
    except (OSError, ValueError):
        return False


def members(mark: str) -> list[psutil.Process]:
    """Return the processes of this user that carry a cluster's mark in their environment: exactly what it started."""
    found: list[psutil.Process] = []
    own = os.getuid()
    for process in psutil.process_iter():
        try:
            if process.uids().real == own and process.environ().get(MARK) == mark and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue  # it ended meanwhile, or hides its environment, which ours never do
    return found


def end_cluster(record: ClusterRecord, *, grace_s: float = STOP_GRACE_S) -> list[ProcessId]:
    """End exactly the processes of a cluster and remove its temporary folder. Return those that still live."""
    left = end_processes(members(record.mark), grace_s=grace_s)
    late = members(record.mark)  # started by a member while it was being ended
    if late:
        left = end_processes(late, grace_s=0.0)
    if not left:
        shutil.rmtree(record.temp_dir, ignore_errors=True)
    return left


def wait_until_up(address: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return once something listens at the address. Raises ClusterError after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not answers(address):
        if time.monotonic() > deadline:
            raise ClusterError(f"no Ray cluster answers at {address} after {timeout_s:.0f} s")
        time.sleep(0.05)


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


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])
