"""One controller a store, whoever dies, and what it says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.home import HomePaths
from workers.jobs.errors import ControllerError
from workers.jobs.files import write_json
from workers.jobs.launch import with_this_code
from workers.jobs.lock import ControllerLock, ControllerRecord, is_held, read_record

HOLDER = """
import sys
from pathlib import Path
from workers.jobs.lock import ControllerLock
lock = ControllerLock(Path(sys.argv[1]))
assert lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_has_one_holder_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "controller.lock"
    assert not is_held(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=with_this_code(os.environ),
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        assert is_held(path)
        assert not ControllerLock(path).acquire(patience_s=0.0)
        holder.kill()
        holder.wait()
    assert not is_held(path)
    lock = ControllerLock(path)
    assert lock.acquire()
    assert lock.acquire()  # it is ours already
    lock.release()
    assert not is_held(path)
    with pytest.raises(ControllerError):
        _ = lock.descriptor


def test_probes_neither_take_each_other_for_a_controller_nor_keep_one_out(tmp_path: Path) -> None:
    path = tmp_path / "controller.lock"
    path.touch()
    with ThreadPoolExecutor(2) as pool:
        assert not any(pool.map(lambda _: is_held(path), range(400)))
        done = threading.Event()

        def probe() -> None:
            while not done.is_set():
                is_held(path)

        probing = pool.submit(probe)
        taken = []
        for _ in range(20):
            lock = ControllerLock(path)
            taken.append(lock.acquire(patience_s=20.0))
            lock.release()
        done.set()
        probing.result()
    assert all(taken)


def test_the_record_survives_its_file(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path)
    assert read_record(paths) is None
    record = ControllerRecord(1, 2.0, "host", "ray", "", {"address": "127.0.0.1:1"}, 3.0)
    write_json(paths.controller_json, record.to_json())
    assert read_record(paths) == record
    write_json(paths.controller_json, {"pid": 1})  # of another version
    assert read_record(paths) is None
