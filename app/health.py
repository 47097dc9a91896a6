"""What this machine offers and whether the store is well: the checks behind `mambalab doctor`. Nothing is started."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from app.formats import ago, large

if TYPE_CHECKING:
    from storage.home import HomePaths

State = Literal["ok", "note", "broken"]
PACKAGES = (
    "torch",
    "triton",
    "ray",
    "textual",
    "sqlmodel",
    "alembic",
    "pydantic",
    "typer",
    "rich",
    "numpy",
    "safetensors",
)
OPTIONAL = {"triton": "runs use the plain PyTorch kernels"}
OPS = ("selective_scan", "causal_conv1d", "rms_norm", "selective_state_update")
LITTLE_SPACE = 1 << 30
REMOTE_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "sshfs", "fuse.sshfs", "9p", "lustre", "beegfs", "gpfs")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: `broken` needs repair before runs can work, a `note` is worth knowing."""

    name: str
    state: State
    detail: str


def examine(paths: HomePaths) -> Iterator[Check]:
    """Yield every check as it is made."""
    parts: tuple[Callable[[], Iterator[Check]], ...] = (
        _python,
        _packages,
        _own_kernels,
        _devices,
        _triton_kernels,
        lambda: _folder(paths),
        lambda: _store(paths),
        lambda: _controller(paths),
    )
    for part in parts:
        yield from part()


def _python() -> Iterator[Check]:
    known = sys.version_info >= (3, 11)
    detail = f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    yield Check("python", "ok" if known else "broken", detail if known else f"{detail}; mambalab needs 3.11 or newer")


def _packages() -> Iterator[Check]:
    for name in PACKAGES:
        try:
            yield Check(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            if name in OPTIONAL:
                yield Check(name, "note", f"not installed: {OPTIONAL[name]}")
            else:
                yield Check(name, "broken", "not installed; `make install` installs what mambalab needs")


def _own_kernels() -> Iterator[Check]:
    """Tell of the distribution `kernels` on PyPI, which claims the same top-level name (docs/adr/0001)."""
    spec = find_spec("kernels")
    ours = Path(__file__).resolve().parents[1] / "kernels"
    found = Path(spec.origin).parent if spec is not None and spec.origin else None
    if found is None or found.resolve() != ours:
        yield Check(
            "kernels", "broken", f"`import kernels` finds {found}, not {ours}; use a virtual environment of its own"
        )
        return
    try:
        version = metadata.version("kernels")
    except metadata.PackageNotFoundError:
        yield Check("kernels", "ok", str(ours))
    else:
        yield Check(
            "kernels",
            "note",
            f"the PyPI distribution kernels {version} is installed beside mambalab's own package of that name; "
            "`pip uninstall kernels`, or use a virtual environment of its own",
        )


def _devices() -> Iterator[Check]:
    yield Check("cpu", "ok", f"{os.cpu_count()} cores")
    if find_spec("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Check("gpu", "note", f"none that torch can use ({built}); runs use the CPU")
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        capability = f"compute capability {about.major}.{about.minor}"
        yield Check("gpu", "ok", f"{index}: {about.name}, {about.total_memory / 2**30:.0f} GiB, {capability}, {bf16}")


def _triton_kernels() -> Iterator[Check]:
    if find_spec("triton") is None:
        return
    there = [op for op in OPS if find_spec(f"kernels.{op}.triton_op") is not None]
    missing = [op for op in OPS if op not in there]
    detail = f"for {', '.join(there) or 'no op'}" + (f"; none for {', '.join(missing)}" if missing else "")
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        detail += "; without a GPU they run in Triton's interpreter alone (TRITON_INTERPRET=1, to debug)"
    yield Check("triton kernels", "note" if missing else "ok", detail)


def parity() -> Iterator[Check]:
    """Yield a check for each op and dtype: whether this machine computes what the float64 reference does.

    On a GPU these are the Triton kernels, elsewhere the plain forms. It takes seconds, on a GPU that compiles more.
    """
    from kernels.bench.doctor import parity_table
    from kernels.bench.report import worst_rows

    for row in worst_rows(parity_table()):
        detail = f"{row.dtype}, worst {row.tensor} of {row.case}: error {row.error:.2e}, bound {row.bound:.2e}"
        yield Check(f"parity of {row.op}", "ok" if row.passed else "broken", detail)


def _folder(paths: HomePaths) -> Iterator[Check]:
    existing = next(folder for folder in (paths.root, *paths.root.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        yield Check("folder", "broken", f"{existing} cannot be written; --home or $MAMBALAB_HOME names another")
        return
    kind = filesystem(existing)
    if kind in REMOTE_FILESYSTEMS:
        yield Check("folder", "broken", f"{paths.root} lies on {kind}; SQLite's WAL needs a local disk")
    free = shutil.disk_usage(existing).free
    yield Check("folder", "ok" if free > LITTLE_SPACE else "note", f"{paths.root}, {large(free)}B free")


def filesystem(folder: Path) -> str:
    """Return the kind of filesystem a folder lies on, as Linux names it; empty where the system does not tell."""
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        return ""
    best, kind = "", ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, place, found, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if len(place) >= len(best) and folder.resolve().is_relative_to(place):
            best, kind = place, found
    return kind


def _store(paths: HomePaths) -> Iterator[Check]:
    from storage.connect import open_store, schema_version, translated
    from storage.errors import StorageError
    from storage.queries import Reader

    if not paths.database.exists():
        yield Check("store", "note", f"none at {paths.root} yet; `mambalab submit` makes it")
        return
    try:
        connection = open_store(paths.database)
        try:
            with translated(paths.database):
                version = schema_version(connection)
                verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        finally:
            connection.close()
        with Reader(paths) as reader:
            counts = reader.count_runs()
    except StorageError as error:
        yield Check("store", "broken", str(error))
        return
    if verdict != "ok":
        yield Check("store", "broken", f"{paths.database} is damaged: {verdict}. Restore a copy of it.")
        return
    told = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no runs"
    size = large(paths.database.stat().st_size)
    yield Check("store", "ok", f"{paths.database}, schema {version}, {size}B, {told}")


def _controller(paths: HomePaths) -> Iterator[Check]:
    """Tell of the controller and of its Ray, without starting or joining either."""
    from workers.jobs.cluster import ClusterRecord, answers
    from workers.jobs.lock import is_held, read_record

    alive, record = is_held(paths.controller_lock), read_record(paths)
    if record is None:
        yield Check("controller", "ok", "starting" if alive else "none at work; `mambalab submit` starts one")
        return
    told = f"process {record.pid} on {record.host}, executor {record.executor}, started {ago(record.started_at)}"
    if alive:
        yield Check("controller", "ok", told)
    else:
        detail = f"{told}, died; the next `mambalab submit` goes on from there. Its log: {paths.controller_log}"
        yield Check("controller", "note", detail)
    address = record.address or (ClusterRecord.from_json(record.cluster).address if record.cluster else "")
    if address:
        reachable = answers(address)
        state: State = "ok" if reachable else "broken" if alive else "note"
        yield Check("ray cluster", state, f"{address} {'answers' if reachable else 'does not answer'}")
