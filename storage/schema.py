"""The version of the schema, known without loading SQLAlchemy or Alembic."""

from __future__ import annotations

# `PRAGMA user_version` of a migrated store: a number that readers can order, beside Alembic's own revision id.
SCHEMA_VERSION = 2
READABLE_FROM = 1  # the oldest schema that readers understand: what came later only added to it
