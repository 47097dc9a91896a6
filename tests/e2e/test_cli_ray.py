"""The main job as users do it: submit through a Ray of the store's own, follow, read the table, end everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.cli import TINY, Folder
from workers.jobs.cluster import ClusterRecord, members


@pytest.mark.e2e
def test_submit_through_ray_follow_and_end(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY.replace("seeds = [0, 1]", "seeds = [0]"))
    try:
        text = folder.call("submit", "tiny.toml", "--follow")
        ablation_id, *table = text.splitlines()
        assert table == folder.call("table", ablation_id).splitlines()
        runs = folder.json("ls")
        assert [run["status"] for run in runs] == ["completed", "completed"]
        attempts = [folder.json("show", run["id"])["attempts"][0] for run in runs]
        assert [attempt["executor"] for attempt in attempts] == ["ray", "ray"]

        checks = {check["name"]: check for check in folder.json("doctor")["checks"]}
        assert checks["controller"]["detail"].endswith("ago")
        assert checks["ray cluster"]["state"] == "ok"
        assert checks["ray cluster"]["detail"].startswith("127.0.0.1:")
        record = json.loads((tmp_path / ".mambalab" / "controller.json").read_text())
        cluster = ClusterRecord.from_json(record["cluster"])
        assert members(cluster)
    finally:
        folder.call("down")
    assert members(cluster) == []
