"""How far a run is, when it will be done, and which metric decides it."""

from __future__ import annotations

from storage.rows import RunRow

FALLBACK_METRICS = ("valid/accuracy", "valid/loss", "valid/bpb", "train/loss", "train/accuracy")
PROBE = "probe/"  # metrics of what goes on inside the layers: dozens a run, which the lens shows and lists leave out
SILENT_S = 60.0  # a running run that gave no sign of life for so long is shown as silent


def share_of(run: RunRow) -> float:
    """Return how much of a run is done, 0 to 1: one that has completed early is done, one that failed is where it was."""
    if run.status == "completed":
        return 1.0
    return min(1.0, run.step / run.total_steps) if run.total_steps else 0.0


def eta_of(run: RunRow, now: float) -> float | None:
    """Return the seconds until a running run is done, by its own rate; None where it cannot be told, or it is silent."""
    if run.status != "running" or not run.total_steps or run.step <= 0 or is_silent(run, now):
        return None
    left = run.total_steps - run.step
    rate = run.metrics.get("train/steps_per_s")
    if rate and rate > 0:
        return left / rate
    elapsed = (run.heartbeat_at or now) - (run.started_at or now)
    return left * elapsed / run.step if elapsed > 0 else None


def is_silent(run: RunRow, now: float) -> bool:
    """Tell whether a running run has given no sign of life for a minute."""
    sign = run.heartbeat_at or run.started_at
    return run.status == "running" and sign is not None and now - sign > SILENT_S


def deciding_metric(run: RunRow, by_ablation: dict[str, str]) -> str:
    """Return the ablation's metric, or the first usual one that the run has; nothing where it has none."""
    if run.ablation_id is not None and run.ablation_id in by_ablation:
        return by_ablation[run.ablation_id]
    for key in FALLBACK_METRICS:
        if key in run.metrics:
            return key
    others = [key for key in run.metrics if not key.startswith(PROBE)]
    return next((key for key in others if not key.startswith("train/")), next(iter(others), ""))
