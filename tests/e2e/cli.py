"""The console script as a user calls it: a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(sys.executable).with_name("mambalab")
TIMEOUT_S = 120

TINY = """
question = "Does it run?"
seeds = [0, 1]

[metric]
key = "valid/accuracy"
direction = "max"

[baseline.task]
name = "copying"
context = 8
memorize = 2

[baseline.model]
d_model = 16
n_layer = 1
d_state = 4

[baseline.train]
steps = 4
batch_size = 2
eval_batches = 1
log_every = 1

[[axes]]
key = "model.inner"
values = ["s6", "s4d"]
"""


@dataclass(frozen=True)
class Folder:
    """A folder that a user works in, with a store of its own."""

    path: Path

    def call(self, *words: str, code: int = 0) -> str:
        """Run a command, expect an exit code, and return what it wrote to stdout."""
        done = subprocess.run(
            [str(SCRIPT), *words],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        """Run a command and return its stdout, parsed."""
        return json.loads(self.call(*words, "--json"))

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command, and end it where it has not ended by itself."""
        process = subprocess.Popen(
            [str(SCRIPT), *words],
            cwd=self.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    @property
    def environment(self) -> dict[str, str]:
        """A user's environment, without what this one says of stores and colours."""
        return {name: value for name, value in os.environ.items() if name not in ("MAMBALAB_HOME", "FORCE_COLOR")}
