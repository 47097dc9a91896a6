"""The first schema: ablations, runs, attempts, their metrics, and views that read well in plain SQL.

Not reversible: before it there was nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NARROW_TABLES = (
    "CREATE TABLE metric_key (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    # value: NULL is NaN, which SQLite cannot hold; infinities are stored as they are
    """CREATE TABLE metric (
        run INTEGER NOT NULL, key INTEGER NOT NULL, step INTEGER NOT NULL,
        value REAL, at REAL NOT NULL, attempt INTEGER NOT NULL,
        PRIMARY KEY (run, key, step)
    ) WITHOUT ROWID""",
    """CREATE TABLE latest (
        run INTEGER NOT NULL, key INTEGER NOT NULL, step INTEGER NOT NULL,
        value REAL, at REAL NOT NULL, attempt INTEGER NOT NULL,
        PRIMARY KEY (run, key)
    ) WITHOUT ROWID""",
    """CREATE TABLE spool_cursor (
        run INTEGER NOT NULL, attempt INTEGER NOT NULL, "offset" INTEGER NOT NULL,
        PRIMARY KEY (run, attempt)
    ) WITHOUT ROWID""",
)

# Every change of a run, by whatever program, gives it a `changed` above all others: readers fetch what is past the last
# one they saw. Writers are one at a time, so the numbers appear in the order of the commits.
_CHANGE = "UPDATE run SET changed = (SELECT MAX(changed) + 1 FROM run)"
TRIGGERS = (
    f"CREATE TRIGGER run_added AFTER INSERT ON run BEGIN {_CHANGE} WHERE num = NEW.num; END",
    f"CREATE TRIGGER run_changed AFTER UPDATE ON run WHEN NEW.changed = OLD.changed"
    f" BEGIN {_CHANGE} WHERE num = NEW.num; END",
    f"CREATE TRIGGER tag_added AFTER INSERT ON tag BEGIN {_CHANGE} WHERE id = NEW.run_id; END",
    f"CREATE TRIGGER tag_removed AFTER DELETE ON tag BEGIN {_CHANGE} WHERE id = OLD.run_id; END",
)

# No sqrt: builds of SQLite without the math functions exist, and the views must open everywhere. The variance is
# the sample's (n - 1) and is computed in two passes, so that it keeps its digits when the mean is large.
VIEWS = (
    """CREATE VIEW v_runs AS
    SELECT run.num, run.id, ablation.name AS ablation, run.name, run.trial_index, run.trial_label AS trial, run.seed,
           run.status, run.step, run.total_steps,
           CASE WHEN run.total_steps > 0 THEN ROUND(100.0 * run.step / run.total_steps, 1) END AS percent,
           run.attempt, run.max_attempts, run.priority, run.reason, run.error,
           datetime(run.created_at, 'unixepoch') AS created,
           datetime(run.started_at, 'unixepoch') AS started,
           datetime(run.finished_at, 'unixepoch') AS finished,
           ROUND(COALESCE(run.finished_at, run.heartbeat_at) - run.started_at, 3) AS duration_s,
           run.axis_values, run.spec_hash, provenance.git_sha, provenance.git_dirty,
           run.ablation_id, run.archived
    FROM run
    LEFT JOIN ablation ON ablation.id = run.ablation_id
    LEFT JOIN provenance ON provenance.id = run.provenance_id""",
    """CREATE VIEW v_metrics AS
    SELECT run.id AS run, metric_key.name AS key, metric.step, metric.value,
           datetime(metric.at, 'unixepoch') AS at, metric.attempt
    FROM metric JOIN run ON run.num = metric.run JOIN metric_key ON metric_key.id = metric.key""",
    """CREATE VIEW v_latest AS
    SELECT run.id AS run, run.ablation_id, run.trial_label AS trial, run.seed, run.status, metric_key.name AS key,
           latest.step, latest.value
    FROM latest JOIN run ON run.num = latest.run JOIN metric_key ON metric_key.id = latest.key""",
    """CREATE VIEW v_ablation AS
    WITH sample AS (
        SELECT run.ablation_id, run.trial_index, run.trial_label, latest.key, latest.value
        FROM run JOIN latest ON latest.run = run.num
        WHERE run.status = 'completed' AND run.ablation_id IS NOT NULL AND latest.value IS NOT NULL
    ), mean AS (
        SELECT ablation_id, trial_index, key, AVG(value) AS value FROM sample GROUP BY ablation_id, trial_index, key
    )
    SELECT ablation.name AS ablation, sample.trial_index, sample.trial_label AS trial, metric_key.name AS metric,
           mean.value AS mean,
           CASE WHEN COUNT(*) > 1
                THEN SUM((sample.value - mean.value) * (sample.value - mean.value)) / (COUNT(*) - 1) END AS variance,
           COUNT(*) AS n, MIN(sample.value) AS minimum, MAX(sample.value) AS maximum, sample.ablation_id
    FROM sample
    JOIN mean ON mean.ablation_id = sample.ablation_id AND mean.trial_index = sample.trial_index
             AND mean.key = sample.key
    JOIN ablation ON ablation.id = sample.ablation_id
    JOIN metric_key ON metric_key.id = sample.key
    GROUP BY sample.ablation_id, sample.trial_index, sample.key""",
)


def upgrade() -> None:
    """Make every table, trigger and view."""
    _studies()
    _runs()
    _about_runs()
    for statement in NARROW_TABLES + TRIGGERS + VIEWS:
        op.execute(statement)
    op.execute("PRAGMA user_version = 1")


def _studies() -> None:
    op.create_table(
        "provenance",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("git_sha", sa.String),
        sa.Column("git_dirty", sa.Boolean),
        sa.Column("git_diff", sa.String),
        sa.Column("command", sa.String, nullable=False),
        sa.Column("directory", sa.String, nullable=False),
        sa.Column("hostname", sa.String, nullable=False),
        sa.Column("python", sa.String, nullable=False),
        sa.Column("versions", sa.JSON, nullable=False),
    )
    op.create_table(
        "ablation",
        sa.Column("num", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("name", sa.String, nullable=False, index=True),
        sa.Column("question", sa.String, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("metric", sa.String, nullable=False),
        sa.Column("direction", sa.String, nullable=False),
        sa.Column("secondary", sa.JSON, nullable=False),
        sa.Column("axes", sa.JSON, nullable=False),
        sa.Column("seeds", sa.JSON, nullable=False),
        sa.Column("provenance_id", sa.Integer, sa.ForeignKey("provenance.id")),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False),
        sa.Column("note", sa.String, nullable=False),
    )


def _runs() -> None:
    op.create_table(
        "run",
        sa.Column("num", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("ablation_id", sa.String, sa.ForeignKey("ablation.id")),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("trial_index", sa.Integer, nullable=False),
        sa.Column("trial_label", sa.String, nullable=False),
        sa.Column("axis_values", sa.JSON, nullable=False),
        sa.Column("axis_labels", sa.JSON, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("spec_hash", sa.String, nullable=False, index=True),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("cpus", sa.Float, nullable=False),
        sa.Column("gpus", sa.Float),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Float),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("total_steps", sa.Integer),
        sa.Column("heartbeat_at", sa.Float),
        sa.Column("error", sa.String),
        sa.Column("reason", sa.String),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("metrics", sa.LargeBinary, nullable=False),
        sa.Column("provenance_id", sa.Integer, sa.ForeignKey("provenance.id")),
        sa.Column("archived", sa.Boolean, nullable=False),
        sa.Column("changed", sa.Integer, nullable=False, index=True),
        sqlite_autoincrement=True,
    )
    op.create_index("run_queue", "run", ["status", sa.text("priority DESC"), "num", "archived"])
    op.create_index("run_of_ablation", "run", ["ablation_id", "trial_index", "seed"])


def _of_run(*, nullable: bool = False, index: bool = False) -> sa.Column[str]:
    return sa.Column("run_id", sa.String, sa.ForeignKey("run.id", ondelete="CASCADE"), nullable=nullable, index=index)


def _about_runs() -> None:
    op.create_table(
        "attempt",
        sa.Column("id", sa.Integer, primary_key=True),
        _of_run(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("executor", sa.String, nullable=False),
        sa.Column("handle", sa.String),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
        sa.Column("resumed_from", sa.Integer),
        sa.Column("exit_code", sa.Integer),
        sa.Column("reason", sa.String),
        sa.Column("error", sa.String),
        sa.Column("traceback", sa.String),
        sa.UniqueConstraint("run_id", "number"),
    )
    op.create_table(
        "checkpoint",
        sa.Column("id", sa.Integer, primary_key=True),
        _of_run(),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("bytes", sa.Integer),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("run_id", "step"),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        _of_run(nullable=True, index=True),
        sa.Column("ablation_id", sa.String),
        sa.Column("attempt", sa.Integer),
        sa.Column("data", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "request",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        _of_run(index=True),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("status", sa.String, nullable=False, index=True),
        sa.Column("outcome", sa.String),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("settled_at", sa.Float),
    )
    op.create_table(
        "note",
        sa.Column("id", sa.Integer, primary_key=True),
        _of_run(index=True),
        sa.Column("body", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "tag",
        sa.Column("run_id", sa.String, sa.ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True, index=True),
        sa.Column("created_at", sa.Float, nullable=False),
    )
