"""`mambalab doctor` and `bench`."""

from __future__ import annotations

import importlib.metadata
import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app import health
from app.health import Check, filesystem
from storage.home import HomePaths
from workers.jobs.lock import ControllerLock

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call, Lab


def named(paths: HomePaths) -> dict[str, Check]:
    """Return the checks by name."""
    return {check.name: check for check in health.examine(paths)}


def test_a_healthy_store_and_machine(call: Call, lab: Lab) -> None:
    done = call("doctor", "--json")
    checks = {check["name"]: check for check in done.json["checks"]}
    assert done.json["ok"] is True
    assert done.code == 0
    assert checks["torch"]["detail"] == importlib.metadata.version("torch")
    assert "1 queued, 1 running, 2 completed, 1 failed" in checks["store"]["detail"]
    assert checks["controller"]["detail"].startswith("none at work")
    assert call("doctor").stdout.startswith("check\tstate\tdetail\npython\tok\t")


def test_nothing_is_made(call: Call, home: HomePaths) -> None:
    done = call("doctor")
    assert done.code == 0
    assert "store\tnote\tnone at" in done.stdout
    assert not home.root.exists()


def test_a_damaged_store_is_broken(call: Call, home: HomePaths) -> None:
    home.root.mkdir()
    home.database.write_bytes(b"no database" * 100)
    done = call("doctor")
    assert done.code == 1
    assert "broken: store" in done.stderr


def test_a_newer_schema_is_broken(lab: Lab) -> None:
    connection = sqlite3.connect(lab.paths.database)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    assert named(lab.paths)["store"].state == "broken"
    assert "999" in named(lab.paths)["store"].detail


def test_a_missing_package_is_broken(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("ray", "triton"):
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    checks = named(lab.paths)
    assert checks["ray"].state == "broken"
    assert checks["triton"].state == "note"


def test_the_other_kernels_distribution_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.11.7")
    check = named(lab.paths)["kernels"]
    assert check.state == "note"
    assert "kernels 0.11.7" in check.detail


def test_a_controller_that_died_is_told(lab: Lab) -> None:
    record = {
        "pid": 1,
        "created": 0.0,
        "host": "box",
        "executor": "ray",
        "address": "127.0.0.1:1",
        "cluster": None,
        "started_at": 0.0,
    }
    lab.paths.controller_json.write_text(json.dumps(record))
    checks = named(lab.paths)
    assert checks["controller"].state == "note"
    assert "process 1 on box" in checks["controller"].detail
    assert checks["ray cluster"].detail == "127.0.0.1:1 does not answer"
    lock = ControllerLock(lab.paths.controller_lock)
    assert lock.acquire()
    checks = named(lab.paths)
    lock.release()
    assert checks["controller"].state == "ok"
    assert checks["ray cluster"].state == "broken"


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="needs Linux's list of mounts")
def test_the_filesystem_of_a_folder_is_known() -> None:
    assert filesystem(Path("/proc")) == "proc"


def test_benchmarks_tell_what_they_were_measured_on(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(folder: Path) -> dict[str, Any]:
        assert folder.is_dir()
        return {"runs_first_ms_1000": 1.5}

    monkeypatch.setattr("storage.bench.measure_store", measure)
    report = call("bench", "store", "--json", "--output", "store.json").json
    assert report["results"] == {"runs_first_ms_1000": 1.5}
    assert {"at", "cpu", "cores", "python", "versions", "git_sha"} <= set(report["machine"])
    assert json.loads((tmp_path / "store.json").read_text()) == report
    assert call("bench", "store").stdout == "measure\tvalue\nruns_first_ms_1000\t1.5\n"
    monkeypatch.setattr("tui.bench.measure_ui", lambda folder: {"first paint": {"median": 0.25}})
    assert call("bench", "ui").stdout == "measure\tvalue\nfirst paint: median\t0.25\n"


def test_kernels_are_measured_for_the_subjects_asked_for_and_set_beside_the_official_ones(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Report:
        passed = True

        def to_json(self) -> str:
            row: dict[str, Any] = {
                "op": "scan",
                "implementation": "triton",
                "shape": "8x16",
                "note": "",
                "direction": "forward",
            }
            row |= {"official_ms": 1.5, "official_graph_ms": None, "official_source": "theirs", "ratio": 3.0}
            row |= {"times": {"median": 0.5}, "graph": None, "ratio_measured": None, "peak_mb": 12.5}
            head: dict[str, Any] = {
                "dtype": "bfloat16",
                "hardware": {"gpu": "G"},
                "versions": {},
                "commit": "abc",
                "created_at": "",
                "notes": [],
            }
            return json.dumps(head | {"rows": [row]})

    def measure(*arguments: Any, **options: Any) -> Report:
        asked.append((arguments, options))
        return Report()

    monkeypatch.setattr("kernels.bench.run.run_bench", measure)
    done = call("bench", "kernels", "--op", "scan", "--subject", "ours", "--markdown", "scan.md", "--json")
    assert asked == [((["scan"], None, False), {"subjects": ["ours"]})]
    assert done.json["commit"] == "abc"
    assert "| 8x16 | forward | 1.50 |  | 0.5 | 3.00 (published) |  | 12.5 |" in (tmp_path / "scan.md").read_text()
    assert "written to scan.md" in done.stderr


def test_generation_is_measured_at_the_batches_asked_for(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.training.bench_decode import DecodeReport, DecodeRow

    asked: list[Any] = []

    def measure(*arguments: Any, **options: Any) -> DecodeReport:
        asked.append(arguments)
        row = DecodeRow("mambalab", 8, "eager", 4000.0, 3900.0, 4100.0, 2.0, None)
        return DecodeReport("now", {"cpu": "C"}, {}, "abc", [row])

    monkeypatch.setattr("workers.training.bench_decode.run_bench", measure)
    done = call("bench", "decode", "--batch", "8", "--output", "decode.json")
    assert asked == [([8],)]
    assert done.stdout.splitlines()[2].split() == ["mambalab", "8", "eager", "4,000", "2.000", "-"]
    assert json.loads((tmp_path / "decode.json").read_text())["rows"][0]["batch"] == 8


@pytest.mark.parametrize("subject", ["store", "ui"])
def test_a_bench_without_its_folder_is_bad_input(call: Call, home: HomePaths, subject: str) -> None:
    done = call("bench", subject, "--folder", "missing")
    assert done.code == 2
    assert done.stderr.strip() == "error: --folder: cannot make sample stores in missing: No such file or directory"
    (home.root.parent / "file").write_text("")
    assert "cannot make sample stores in file: Not a directory" in call("bench", subject, "--folder", "file").stderr
