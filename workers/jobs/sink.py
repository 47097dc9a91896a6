"""The worker's `MetricSink`: `log()` costs microseconds, and a thread carries what was logged to the spool."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.jobs.errors import SpoolError, SpoolTakenError
from workers.jobs.spool import heartbeat_line, metrics_line, note_line

WRITE_EVERY_S = 0.05  # half of what the contract promises, so that a slow write still keeps it
HEARTBEAT_EVERY_S = 2.0  # far below the silence after which a worker counts as dead
MAX_WAITING = 1_000_000  # rows in memory; a disk that stays full must end the run, not the machine


class SpoolSink:
    """Appends metrics, facts and heartbeats to a spool file, whole lines only.

    `log` and `note` never wait for the disk. Where the disk refuses, everything is kept and tried again; `flush` and
    `close` then raise after `patience_s`. A value that cannot be encoded raises at the next call.

    Args:
        path: the spool; made when missing, appended to otherwise.
        patience_s: how long `flush` and `close` wait for a disk that refuses.

    Raises:
        SpoolTakenError: another process has the spool open for writing.
    """

    def __init__(self, path: Path, *, patience_s: float = 30.0) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise SpoolTakenError(
                f"{path}: another process writes this spool, so it is at work on this attempt."
            ) from None
        self._patience_s = patience_s
        self._waiting: deque[tuple[float, int | str, Mapping[str, Any]]] = deque()
        self._unwritten = bytearray()  # encoded; after a partial write its start completes the torn line
        self._wake = threading.Event()
        self._settled = threading.Condition()
        self._taken = self._written = self._encoded = 0  # rows: handed in, on disk, encoded but not yet on disk
        self._beside = 0  # rows handed in by `log_beside`: a counter of its own, as no two threads may share one
        self._step: int | None = None
        self._failure: BaseException | None = None  # fatal: what was logged cannot be encoded
        self._refusal: OSError | None = None  # may pass: the disk refused
        self._closing = False
        self._last_write = 0.0
        self._thread = threading.Thread(target=self._carry, name="spool", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take named scalars at a step; they are in the spool within 100 ms.

        Raises:
            SpoolError: an earlier row could not be encoded, or the disk has refused for too long.
        """
        if self._failure is not None or len(self._waiting) >= MAX_WAITING:
            self._raise()
        self._waiting.append((time.time(), step, dict(metrics)))
        self._taken += 1
        self._step = step

    @property
    def step(self) -> int | None:
        """The newest step that training has logged; None before the first."""
        return self._step

    def log_beside(self, subject: int | str, content: Mapping[str, Any]) -> None:
        """Take scalars at a step, or a fact under a name, from the one thread beside training's that reports too.

        Never raises: what is wrong with the spool is training's to find out, at its own next row.
        """
        if self._failure is None and not self._closing and len(self._waiting) < MAX_WAITING:
            self._beside += 1  # first: `flush` may wait a moment too long, but never too short
            self._waiting.append((time.time(), subject, dict(content)))

    def note(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Take a fact for the record. Raises SpoolError as `log` does."""
        if self._failure is not None or len(self._waiting) >= MAX_WAITING:
            self._raise()
        self._waiting.append((time.time(), kind, dict(payload)))
        self._taken += 1

    def flush(self) -> None:
        """Return once everything taken so far is with the operating system: a crash of this process loses none of it.

        Raises:
            SpoolError: the disk refused for longer than `patience_s`, or a row could not be encoded.
        """
        goal = self._taken + self._beside
        self._wake.set()
        with self._settled:
            done = self._settled.wait_for(
                lambda: self._written >= goal or self._failure is not None, timeout=self._patience_s
            )
        if not done or self._failure is not None:
            self._raise()

    def close(self) -> None:
        """Flush and end the thread. Raises SpoolError as `flush` does; the file is closed in any case."""
        try:
            self.flush()
        finally:
            self._closing = True
            self._wake.set()
            self._thread.join(timeout=5.0)
            if not self._thread.is_alive():
                os.close(self._descriptor)

    def _raise(self) -> None:
        cause = self._failure or self._refusal
        waiting = len(self._waiting)
        if isinstance(self._failure, TypeError | ValueError):
            raise SpoolError(f"a logged value is not a number that JSON can hold: {cause}") from cause
        raise SpoolError(
            f"the spool cannot be written, {waiting} rows wait: {cause or 'the disk does not answer'}. "
            "Free space on the disk of the store, then retry the run: it resumes from its last checkpoint."
        ) from cause

    def _carry(self) -> None:
        self._write(heartbeat_line(time.time()), 0)
        while not self._closing:
            self._wake.wait(WRITE_EVERY_S)
            self._wake.clear()
            try:
                self._carry_once()
            except (TypeError, ValueError, AttributeError) as error:
                with self._settled:
                    self._failure = error
                    self._settled.notify_all()
                return

    def _carry_once(self) -> None:
        lines: list[bytes] = []
        for _ in range(len(self._waiting)):
            at, subject, content = self._waiting.popleft()
            lines.append(
                note_line(at, subject, content) if isinstance(subject, str) else metrics_line(at, subject, content)
            )
        now = time.monotonic()
        if not lines and not self._unwritten and now - self._last_write >= HEARTBEAT_EVERY_S:
            self._write(heartbeat_line(time.time()), 0)
        else:
            self._write(b"".join(lines), len(lines))

    def _write(self, data: bytes, count: int) -> None:
        self._unwritten += data
        self._encoded += count
        try:
            while self._unwritten:
                written = os.write(self._descriptor, self._unwritten)
                del self._unwritten[:written]
                self._last_write = time.monotonic()
        except OSError as error:
            self._refusal = error
            return
        self._refusal = None
        if self._encoded:
            with self._settled:
                self._written += self._encoded
                self._encoded = 0
                self._settled.notify_all()
