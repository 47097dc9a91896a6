"""The worker of an attempt whose run several processes train: it starts them, hands on what it is asked, and waits.

On a Ray cluster Ray Train starts them, as workers of its own on this machine, which hold the attempt's CPUs and GPUs; elsewhere,
or where Ray Train's own dependencies are missing (`pip install 'mambalab[data-parallel]'`), torchrun does. Rank 0 has the
attempt's spool and writes its result (workers.jobs.ranked). A file asks them to stop: a signal would end Ray's workers.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from storage.home import AttemptPaths
from workers.jobs.attempt import AttemptSpec, Outcome, WorkerExit
from workers.jobs.files import read_json, write_json
from workers.jobs.ranked import LED, train_as_rank
from workers.jobs.supervisor import result_code
from workers.jobs.worker import STOP_FILE, claim, hold_leash, stop_event
from workers.parallel import processes

LOCK_FILE = "team.lock"
LOOK_EVERY_S = 0.2
RAY_TRAIN = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process of its own, and ranks do not listen to it
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # not 60: as patient as the controller, `ControllerSettings.start_s`
}


def ray_train_is_installed() -> bool:
    """Say whether Ray Train can be used: beyond plain Ray it needs pandas and pyarrow."""
    return all(importlib.util.find_spec(name) is not None for name in ("pandas", "pyarrow"))


def lead(attempt: AttemptSpec) -> int:
    """Have an attempt's processes train its run, and return the exit code."""
    with _alone(attempt) as alone:
        if not alone:
            return WorkerExit.DUPLICATE
        claim(attempt)
        if attempt.leash:
            hold_leash([])
        ended = _by_ray_train(attempt) if attempt.cluster else _by_torchrun(attempt)
    paths = AttemptPaths(attempt.path)
    if read_json(paths.result) is None:
        count = processes(attempt.spec)
        outcome = Outcome("failed", "error", error=f"the {count} processes of the run ended without a result: {ended}")
        write_json(paths.result, outcome.to_json())
    return result_code(paths)


def _by_torchrun(attempt: AttemptSpec) -> str:
    """Train by torchrun, and return what is to be told of its end. Its processes end when this one does."""
    stop = stop_event()
    count = processes(attempt.spec)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "--max-restarts=0"]
    reading, writing = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, *launch, "-m", "workers.jobs.worker", str(attempt.path)],
            stdin=reading,
            env={**os.environ, LED: "1"},
        )
    finally:
        os.close(reading)
    try:
        while True:
            try:
                return f"torchrun's exit code is {child.wait(LOOK_EVERY_S)}"
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    (attempt.path / STOP_FILE).touch()
    finally:
        os.close(writing)


def _by_ray_train(attempt: AttemptSpec) -> str:
    """Train by Ray Train, and return what is to be told of its end."""
    os.environ.update(RAY_TRAIN)
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init(address=attempt.cluster, configure_logging=False)
    stop = stop_event()  # Ray has just put its own handlers there
    over = threading.Event()
    threading.Thread(target=_hand_on, args=(stop, over, attempt), name="stop", daemon=True).start()
    count = processes(attempt.spec)
    each: dict[str, float] = {"CPU": attempt.cpus / count, f"node:{ray.util.get_node_ip_address()}": 0.001}
    trainer = TorchTrainer(
        _ray_rank,
        train_loop_config={"attempt": attempt.to_json()},
        torch_config=TorchConfig(backend="nccl" if attempt.gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=count, use_gpu=attempt.gpus > 0, resources_per_worker=each),
        run_config=RunConfig(
            name=attempt.key, storage_path=str(attempt.path / "ray-train"), failure_config=FailureConfig(max_failures=0)
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001 - whatever Ray Train ends with, the attempt's own result says more
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    finally:
        over.set()
        ray.shutdown()
    return "Ray Train says that all went well"


def _ray_rank(config: Mapping[str, Any]) -> None:
    """Be one of Ray Train's workers, which has made the process group."""
    import torch
    from ray.train.torch import get_device

    from workers.training.ranks import Ranks

    attempt = AttemptSpec.from_json(config["attempt"])
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ranks = Ranks(started_by="Ray Train")
    outcome = train_as_rank(attempt, ranks, _never)
    if outcome.status == "failed":
        raise RuntimeError(outcome.error)


def _never() -> bool:
    return False


def _hand_on(stop: threading.Event, over: threading.Event, attempt: AttemptSpec) -> None:
    while not over.wait(LOOK_EVERY_S):
        if stop.is_set():
            (attempt.path / STOP_FILE).touch()
            return


@contextmanager
def _alone(attempt: AttemptSpec) -> Iterator[bool]:
    """Say whether no other process leads the attempt."""
    with (attempt.path / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
