"""What the benchmarks of training and of generation report: their rows, and on what they were measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from kernels.bench import machine

SCHEMA = 1

Row = TypeVar("Row")


@dataclass(slots=True)
class BenchReport(Generic[Row]):
    """Everything measured, and on what; `bench` names the benchmark."""

    bench: ClassVar[str]

    created_at: str
    hardware: dict[str, Any]
    versions: dict[str, str]
    commit: str
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def begin(cls, device: str, commit: str | None) -> Self:
        """Return a report without rows, of now and of this machine; git is asked for a commit that is not given."""
        created_at = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(created_at, machine.hardware(device), machine.versions(), commit or machine.commit())

    def to_json(self) -> str:
        """Return every figure as JSON."""
        return json.dumps({"schema": SCHEMA, "bench": self.bench, **asdict(self)}, indent=1, allow_nan=False)

    def write(self, path: Path) -> None:
        """Write the JSON to a file."""
        path.write_text(self.to_json() + "\n", encoding="utf-8")

    def heading(self) -> str:
        """Return the machine and the commit as a line of text."""
        return ", ".join(str(value) for value in self.hardware.values()) + f", commit {self.commit}"
