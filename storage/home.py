"""Where the store lies, and the name of every file in it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from storage.ids import check_id

FOLDER = ".mambalab"
VARIABLE = "MAMBALAB_HOME"


def find_home(start: Path | None = None) -> Path:
    """Return the store's folder, which need not exist: $MAMBALAB_HOME, else the nearest .mambalab upward, else here.

    `start` is the folder to look upward from, the current one by default. The answer is absolute.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    origin = (start or Path.cwd()).absolute()
    for folder in (origin, *origin.parents):
        if (folder / FOLDER).is_dir():
            return folder / FOLDER
    return origin / FOLDER


@dataclass(frozen=True, slots=True)
class AttemptPaths:
    """The files of one attempt."""

    directory: Path

    @property
    def spec(self) -> Path:
        """What to run, written before the worker starts."""
        return self.directory / "spec.json"

    @property
    def spool(self) -> Path:
        """The worker's append-only report, one JSON object a line."""
        return self.directory / "spool.jsonl"

    @property
    def log(self) -> Path:
        """The worker's stdout and stderr."""
        return self.directory / "log.txt"

    @property
    def result(self) -> Path:
        """The worker's last word, written aside and renamed."""
        return self.directory / "result.json"


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run, shared by its attempts."""

    directory: Path

    @property
    def checkpoints(self) -> Path:
        """Holds one folder a checkpoint, step-000500."""
        return self.directory / "checkpoints"

    def checkpoint_steps(self) -> list[int]:
        """Return the steps whose checkpoints are there, in order; how whole they are is not looked at."""
        names = (path.name for path in self.checkpoints.glob("step-*") if path.is_dir())
        return sorted(int(step) for name in names if (step := name.removeprefix("step-")).isdecimal())

    @property
    def attempts(self) -> Path:
        """Holds one folder an attempt, named by its number."""
        return self.directory / "attempts"

    def attempt(self, number: int) -> AttemptPaths:
        """Return the files of attempt `number`, 1 or more. Raises ValueError for less."""
        if number < 1:
            raise ValueError(f"attempt must be 1 or more, got {number}")
        return AttemptPaths(self.attempts / str(number))


@dataclass(frozen=True, slots=True, init=False)
class HomePaths:
    """Every filename below the store's folder. Making one touches nothing on disk."""

    root: Path

    def __init__(self, root: Path | str) -> None:
        object.__setattr__(self, "root", Path(root).expanduser().absolute())

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "lab.db"

    @property
    def migrate_lock(self) -> Path:
        """Held while the schema is made or migrated."""
        return self.root / "migrate.lock"

    @property
    def controller_lock(self) -> Path:
        """Held by the one live controller."""
        return self.root / "controller.lock"

    @property
    def spawn_lock(self) -> Path:
        """Held while a controller is being started or ended: two submissions start one, and `down` misses none."""
        return self.root / "spawn.lock"

    @property
    def controller_json(self) -> Path:
        """What the live controller says of itself: process id, address, start."""
        return self.root / "controller.json"

    @property
    def controller_log(self) -> Path:
        """The controller's stdout and stderr."""
        return self.root / "controller.log"

    @property
    def token(self) -> Path:
        """The secret that Ray's processes of this store share, readable by the owner alone."""
        return self.root / "token"

    @property
    def ray_temp(self) -> Path:
        """Ray's working folder for this store.

        Not below the home: Ray appends about 60 characters for its sockets and a socket's path ends at 107 bytes, so
        a deep home would break it. The name is a hash of the home, so that each store has its own.
        """
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:10]
        base = Path(tempfile.gettempdir())
        if len(os.fsencode(base)) > 30 and os.name == "posix":
            base = Path("/tmp")  # noqa: S108 - a temporary folder too deep for sockets; the name is unique to this home
        return base / f"mlab-{digest}"

    @property
    def runs(self) -> Path:
        """Holds one folder a run."""
        return self.root / "runs"

    def run(self, run_id: str) -> RunPaths:
        """Return the files of a run. Raises ValueError where the id could leave the store's folder."""
        return RunPaths(self.runs / check_id(run_id))

    def run_dir(self, run_id: str) -> Path:
        """Return the run's folder."""
        return self.run(run_id).directory

    def checkpoints(self, run_id: str) -> Path:
        """Return the folder of the run's checkpoints."""
        return self.run(run_id).checkpoints

    def attempt(self, run_id: str, number: int) -> AttemptPaths:
        """Return the files of one attempt of a run."""
        return self.run(run_id).attempt(number)
