"""Runs and ablations made up in memory."""

from __future__ import annotations

import json
from typing import Any

from storage.rows import RunRow


def make_run(num: int = 1, **changes: Any) -> RunRow:
    """Return a completed run with what is changed."""
    values: dict[str, Any] = {
        "num": num,
        "id": f"run{num:07d}",
        "ablation_id": None,
        "ablation": None,
        "name": f"single-{num}",
        "trial_index": 0,
        "trial_label": "",
        "axis_labels": {},
        "axis_values": {},
        "seed": 0,
        "status": "completed",
        "step": 100,
        "total_steps": 100,
        "attempt": 1,
        "max_attempts": 3,
        "priority": 0,
        "reason": None,
        "error": None,
        "created_at": 1000.0,
        "started_at": 1010.0,
        "finished_at": 1070.0,
        "heartbeat_at": 1069.0,
        "archived": False,
        "tags": (),
        "metrics": {"valid/accuracy": 0.5},
        "spec_json": json.dumps({"model": {"d_state": 16, "inner": "s6"}, "train": {"lr": 1e-3}, "seed": 0}),
    }
    return RunRow(**{**values, **changes})
