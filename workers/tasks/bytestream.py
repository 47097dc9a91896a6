"""Random access to the bytes of one or more files, mapped into memory and never read whole."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from workers.errors import TaskError

SUFFIXES = (".txt", ".md")
_PROBE = 1 << 16  # bytes at a file's start that are searched for NUL
_RESIDENT_LIMIT = 1 << 30  # bytes: a corpus up to this size is copied to a GPU once, which saves a copy every step


class ByteStream:
    """The bytes of a file, or of all `.txt` and `.md` files below a folder, joined in the order of their paths.

    Raises:
        TaskError: nothing there, nothing in it, not readable, or binary.
    """

    def __init__(self, path: Path) -> None:
        files = [file for file in _find(path) if file.stat().st_size]
        if not files:
            raise TaskError(f"task.path {str(path)!r} holds no text: every file is empty. Name a file with text.")
        self._hold([_map(file) for file in files])

    def _hold(self, parts: list[Tensor]) -> None:
        """Read from these from now on, uint8 and one-dimensional."""
        self._parts = parts
        sizes = torch.tensor([0] + [part.numel() for part in self._parts])
        self._starts = sizes.cumsum(0)
        self._resident: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, starts: Tensor, length: int, device: torch.device | str) -> Tensor:
        """Return int64 (len(starts), length) on `device`: the bytes from each start; windows must lie inside.

        On a GPU a corpus of up to 1 GiB is read from the device's own memory without waiting for the host.
        """
        device = torch.device(device)
        if self.on_host(device):
            gathered = self._gather(_positions(starts.cpu(), length))
            if device.type == "cuda":
                gathered = gathered.pin_memory().to(device, non_blocking=True)
            return gathered.to(device, torch.int64)
        if device not in self._resident:
            self._resident[device] = torch.cat(self._parts).to(device)
        return self._resident[device][_positions(starts.to(device), length)].long()

    def on_host(self, device: torch.device) -> bool:
        """Say whether what is read for a device comes out of host memory."""
        return device.type == "cpu" or len(self) > _RESIDENT_LIMIT

    def _gather(self, positions: Tensor) -> Tensor:
        if len(self._parts) == 1:
            return self._parts[0][positions]
        owners = torch.bucketize(positions, self._starts[1:], right=True)
        gathered = torch.empty(positions.shape, dtype=torch.uint8)
        for owner in set(owners.flatten().tolist()):
            mine = owners == owner
            gathered[mine] = self._parts[owner][positions[mine] - self._starts[owner]]
        return gathered


def _positions(starts: Tensor, length: int) -> Tensor:
    return starts[:, None] + torch.arange(length, device=starts.device)


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise TaskError(
            f"task.path {str(path)!r} is neither a file nor a folder, seen from {str(Path.cwd())!r}. Correct the path, "
            "or leave it out for the bundled Shakespeare."
        )
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise TaskError(
            f"task.path {str(path)!r} is a folder without {' or '.join(SUFFIXES)} files. Put some there, or name one file."
        )
    return files


def _map(file: Path) -> Tensor:
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            probe = opened.read(_PROBE)
        mapped = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        raise TaskError(f"task.path: {str(file)!r} cannot be read: {error}. Check its permissions.") from error
    if b"\0" in probe:
        raise TaskError(
            f"task.path: {str(file)!r} is binary or UTF-16 (byte {probe.index(0)} is NUL), and text is expected. "
            "Convert it to UTF-8 or take it out."
        )
    return mapped
