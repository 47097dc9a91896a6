"""One row that tells of the cluster: machines, who holds what, and why the queue waits. Readers do without it.

Not reversible: older versions read the store as it is, and refuse it only by its number.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# JSON, as it is written and read whole every few seconds; overwritten in place, so that the store does not grow
CLUSTER = "CREATE TABLE cluster (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL, state TEXT NOT NULL)"


def upgrade() -> None:
    """Make the table."""
    op.execute(CLUSTER)
    op.execute("PRAGMA user_version = 2")
